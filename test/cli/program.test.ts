import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'

const root = resolve(import.meta.dirname, '../..')
const nsm = nsmProgram
const dir = mkdtempSync(join(tmpdir(), 'nsm-cli-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

interface Ended {
  readonly exitCode: number
  readonly out: string
  readonly err: string
}

/** Runs the program with a state folder of its own. */
function run(program: string, args: readonly string[], cwd = dir): Promise<Ended> {
  const env = { ...process.env, NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  return new Promise((settle) => {
    const child = execFile(program, [...args], { cwd, env }, (error, out, err) =>
      settle({ exitCode: error && typeof error.code === 'number' ? error.code : (child.exitCode ?? 0), out, err }),
    )
  })
}

describe('nsm', () => {
  test('runs from any folder and through symbolic links, absolute and relative', async () => {
    symlinkSync(nsm, join(dir, 'absolute'))
    symlinkSync('absolute', join(dir, 'relative'))
    for (const program of [nsm, join(dir, 'absolute'), join(dir, 'relative')]) {
      const { exitCode, out } = await run(program, ['--version'])
      expect(exitCode).toBe(0)
      expect(out).toMatch(/^nsm \d+\.\d+\.\d+ \(\w+ \w+, Node v\d+/)
    }
  })

  test('ends with 0 when the reader of its help leaves early', async () => {
    const { exitCode, out } = await run('bash', ['-c', `set -o pipefail; "${nsm}" --help | head -1`])
    expect(exitCode).toBe(0)
    expect(out.split('\n')).toHaveLength(2)
  })

  test('ends with the exit code of the error and one JSON document', async () => {
    const { exitCode, out, err } = await run(nsm, ['connect', '--json'])
    expect(exitCode).toBe(2)
    expect(JSON.parse(out).error.code).toBe('USAGE')
    expect(err).toBe('')
  })

  test.each([
    ['connect', ['connect', 'blue']],
    ['serve', ['serve', '--listen', '127.0.0.1:0', '--wireguard-port', '0']],
    ['whoami', ['whoami']],
    ['cleanup', ['cleanup']],
  ])('%s refuses folders that are files, or below one, and says so', async (_what, words) => {
    const file = join(dir, 'file')
    writeFileSync(file, '')
    for (const place of [file, join(file, 'below')]) {
      for (const name of ['NSM_STATE_DIR', 'NSM_RUNTIME_DIR']) {
        const { exitCode, out } = await run('env', [`${name}=${place}`, nsm, ...words, '--json'])
        expect([exitCode, JSON.parse(out).error.code], `${name}=${place}`).toEqual([9, 'PERMISSION'])
        expect(out).toMatch(/is not a directory|a file is where a folder has to be/)
      }
    }
  })

  test('status among folders that are files, or below one, finds nothing that runs', async () => {
    writeFileSync(join(dir, 'file'), '')
    for (const place of [join(dir, 'file'), join(dir, 'file', 'below')]) {
      const { exitCode, out } = await run('env', [`NSM_STATE_DIR=${place}`, `NSM_RUNTIME_DIR=${place}`, nsm, 'status'])
      expect([exitCode, out]).toEqual([0, '# no network service is connected\n'])
    }
  })

  test('says in text what happened and what to do, on standard error', async () => {
    const { exitCode, out, err } = await run(nsm, ['conect'])
    expect(exitCode).toBe(2)
    expect(out).toBe('')
    expect(err).toContain('Try this: nsm help')
  })

  test.each([
    [['--version'], [/@oclif/, /@grpc/, /koffi/, /protobuf/, /daemon/, /commands\/connect/]],
    [['--help'], [/@oclif/, /@grpc/, /koffi/, /protobuf/, /daemon/, /commands\/connect/]],
    [['help'], [/@oclif/, /@grpc/, /koffi/, /protobuf/, /daemon/, /commands\/connect/]],
    [
      ['connect', '--help'],
      [/@grpc/, /koffi/, /protobuf/, /daemon\/(client|serve)/, /commands\/serve/],
    ],
    [
      ['connect', '--no-such-flag'],
      [/@grpc/, /koffi/, /protobuf/, /daemon\/(client|serve)/, /commands\/serve/],
    ],
  ])('%j loads no heavy module', async (args, heavy) => {
    const loaded = await loadedFiles(args)
    expect(loaded.some((file) => file.includes('src/commands/main.ts'))).toBe(true)
    for (const pattern of heavy) expect(loaded.filter((file) => pattern.test(file.replace(root, '')))).toEqual([])
  })
})

/** Every file that a run opened as a module, ESM and CommonJS. */
async function loadedFiles(args: readonly string[]): Promise<readonly string[]> {
  const list = join(dir, `loaded-${args.join('-')}`)
  const hook = `
    import { registerHooks } from 'node:module'
    import { appendFileSync } from 'node:fs'
    registerHooks({ load(url, context, next) { appendFileSync(${JSON.stringify(list)}, url + '\\n'); return next(url, context) } })
  `
  const node = join(root, 'node_modules/.bin/node')
  await run(node, ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, join(root, 'bin/nsm.js'), ...args])
  return readFileSync(list, 'utf8').split('\n')
}
