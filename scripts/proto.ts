/**
 * Generates src/nsm/generated from src/nsm/proto with the protoc and protoc-gen-es that npm brings.
 * usage: sh scripts/run.sh scripts/proto.ts [--check]     --check generates elsewhere and compares
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const protoDir = join(root, 'src/nsm/proto')
const generatedDir = join(root, 'src/nsm/generated')
const bin = (name: string) => join(root, 'node_modules/.bin', name)

if (process.argv.includes('--check')) check()
else generate(generatedDir)

function generate(outDir: string): void {
  rmSync(outDir, { recursive: true, force: true })
  mkdirSync(outDir, { recursive: true })
  const protos = readdirSync(protoDir).filter((name) => name.endsWith('.proto'))
  const plugin = `--plugin=protoc-gen-es=${bin('protoc-gen-es')}`
  const options = ['--es_opt=target=js+dts,import_extension=js', `--es_out=${outDir}`, `--proto_path=${protoDir}`]
  execFileSync(bin('protoc'), [plugin, ...options, ...protos.sort()], { stdio: 'inherit' })
}

function check(): void {
  const fresh = mkdtempSync(join(tmpdir(), 'nsm-proto-'))
  try {
    generate(fresh)
    const names = new Set([...readdirSync(fresh), ...readdirSync(generatedDir)])
    const stale = [...names].filter((name) => contentOf(fresh, name) !== contentOf(generatedDir, name))
    if (stale.length === 0) return
    process.stderr.write(`src/nsm/generated differs from src/nsm/proto: ${stale.join(', ')}\nrun: npm run proto\n`)
    process.exitCode = 1
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

function contentOf(dir: string, name: string): string | undefined {
  return readdirSync(dir).includes(name) ? readFileSync(join(dir, name), 'utf8') : undefined
}
