// Builds src/tunnel/wireguard/engine.wasm from wasm/ with a compiler of its own.
//   npm run wasm          builds and writes the module and its checksum
//   npm run wasm:check    builds and compares with the module that is there
// NSM_TOOLCHAIN names the folder of the compiler; it is made there when it is missing (240 MB, half a minute).
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const toolchain = process.env.NSM_TOOLCHAIN ?? join(root, 'node_modules', '.cache', 'nsm-toolchain')
const target = join(root, 'src', 'tunnel', 'wireguard', 'engine.wasm')
const tools = join(root, 'wasm', 'tools')

process.exitCode = main(process.argv.includes('--check'))

/** The exit code. */
function main(check) {
  if (!prepareToolchain()) return 1
  const folder = mkdtempSync(join(tmpdir(), 'nsm-wasm-'))
  try {
    const built = join(folder, 'engine.wasm')
    if (!run('sh', [join(tools, 'build.sh'), toolchain, built])) return 1
    return check ? compare(built) : install(built)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function prepareToolchain() {
  if (existsSync(join(toolchain, 'complete'))) return true
  mkdirSync(toolchain, { recursive: true })
  return run('sh', [join(tools, 'toolchain.sh'), toolchain])
}

function install(built) {
  // Programs that run read the one they began with.
  copyFileSync(built, `${target}.new`)
  renameSync(`${target}.new`, target)
  writeFileSync(`${target}.sha256`, `${sha256(built)}  engine.wasm\n`)
  console.log(`wrote engine.wasm, ${readFileSync(built).length} bytes, sha256 ${sha256(built)}`)
  return 0
}

function compare(built) {
  const [wanted] = readFileSync(`${target}.sha256`, 'utf8').split(' ')
  const found = { source: sha256(built), module: sha256(target) }
  if (found.source === wanted && found.module === wanted) {
    console.log(`engine.wasm is what wasm/ builds: sha256 ${wanted}`)
    return 0
  }
  console.error(`engine.wasm differs: recorded ${wanted}, in the tree ${found.module}, built ${found.source}`)
  console.error('run `npm run wasm` and commit engine.wasm with engine.wasm.sha256')
  return 1
}

function sha256(path) {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' })
  if (error) console.error(`${command}: ${error.message}`)
  return status === 0
}
