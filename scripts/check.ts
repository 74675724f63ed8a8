import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** `npm run check [-- --full]`: types, lint and format, architecture, generated files; one line per step with its time. */
const root = resolve(import.meta.dirname, '..')
const full = process.argv.includes('--full')
const vitest = join(root, 'node_modules/vitest/vitest.mjs')

interface Step {
  readonly name: string
  readonly program: string
  readonly args: readonly string[]
  /** Why the step is left out; undefined runs it. */
  readonly leftOut?: string | undefined
}

const steps: readonly Step[] = [
  { name: 'types', program: bin('tsc'), args: ['--noEmit'] },
  { name: 'lint and format', program: bin('biome'), args: ['check', '--error-on-warnings'] },
  {
    name: 'shell scripts',
    program: 'bash',
    args: [
      '-c',
      'for file in bin/nsm scripts/*.sh wasm/tools/*.sh installers/*.sh .ci/run; do bash -n "$file" || exit 1; done',
    ],
  },
  { name: 'architecture', program: process.execPath, args: [vitest, 'run', 'test/architecture.test.ts'] },
  { name: 'docs are up to date', program: process.execPath, args: ['scripts/docs.ts', '--check'] },
  { name: 'generated messages', program: process.execPath, args: ['scripts/proto.ts', '--check'] },
  { name: 'lockfile', program: 'npm', args: ['ls', '--package-lock-only', '--all', '--loglevel=error'] },
  {
    name: 'WebAssembly rebuild',
    program: process.execPath,
    args: ['scripts/wasm.mjs', '--check'],
    leftOut: full ? undefined : 'needs a Rust toolchain and minutes; npm run check -- --full',
  },
]

let failed = 0
for (const step of steps) {
  const startedMs = performance.now()
  const outcome = step.leftOut ?? run(step)
  if (outcome === 'failed') failed++
  const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1)
  process.stdout.write(
    `${step.name.padEnd(22)} ${outcome === step.leftOut ? `left out: ${outcome}` : `${outcome}  ${seconds} s`}\n`,
  )
}
process.stdout.write(failed === 0 ? 'check passed\n' : `check failed: ${failed} step${failed === 1 ? '' : 's'}\n`)
process.exitCode = failed === 0 ? 0 : 1

function run({ program, args }: Step): 'ok' | 'failed' {
  const { status, stdout, stderr } = spawnSync(program, [...args], { cwd: root, encoding: 'utf8' })
  if (status === 0) return 'ok'
  process.stdout.write(`${stdout ?? ''}${stderr ?? ''}`)
  return 'failed'
}

function bin(name: string): string {
  const path = join(root, 'node_modules/.bin', name)
  return existsSync(path) ? path : name
}
