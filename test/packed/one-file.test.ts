import { execFile } from 'node:child_process'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { commandTable } from '../../src/commands/command-table.ts'
import { rootHelpText } from '../../src/ui/root-help.ts'
import { versionLine } from '../../src/ui/version-info.ts'
import { onLoopback, startedServe } from '../support/started-serve.ts'

const root = resolve(import.meta.dirname, '../..')
const program = process.env['NSM_PROGRAM'] ?? ''
const dir = mkdtempSync(join(tmpdir(), 'nsm-one-file-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

interface Ended {
  readonly exitCode: number
  readonly out: string
  readonly err: string
}

/** A folder to stand in that tries to be the program's own. */
const trap = join(dir, 'trap')
const shout = 'process.stdout.write("PLANTED\\n")'

/** The program, alone in a folder of its own. */
const nsm = join(dir, 'alone', 'nsm')
const dirs = { NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }

function run(file: string, args: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const env = { PATH: process.env['PATH'], HOME: trap, ...dirs, ...environment }
  return new Promise((settle) => {
    const child = execFile(file, [...args], { cwd: trap, env }, (_error, out, err) =>
      settle({ exitCode: child.exitCode ?? -1, out, err }),
    )
  })
}

/** Runs words of the shell with the program as `$0`. */
const shell = (script: string) => run('sh', ['-c', script, nsm])

describe.skipIf(program === '')('the one-file executable (needs NSM_PROGRAM: npm run test:packed)', () => {
  beforeAll(() => {
    for (const name of ['koffi', '@oclif/core', '@grpc/grpc-js', 'typescript', 'debug']) {
      mkdirSync(join(trap, 'node_modules', name), { recursive: true })
      writeFileSync(join(trap, 'node_modules', name, 'index.js'), shout)
    }
    for (const name of ['boot.cjs', 'nsm.js', 'worker.cjs', 'evil.cjs']) writeFileSync(join(trap, name), shout)
    writeFileSync(join(trap, 'package.json'), '{"type":"module","imports":{"#nsm":"./evil.cjs"}}')
    mkdirSync(join(dir, 'alone'))
    copyFileSync(program, nsm)
  })

  test('answers help and version as the checkout does', async () => {
    expect((await run(nsm, ['--version'])).out).toBe(`${versionLine()}\n`)
    for (const args of [[], ['--help'], ['-h'], ['help']]) {
      expect((await run(nsm, args)).out).toBe(`${rootHelpText(commandTable)}\n`)
    }
  })

  test.each(commandTable.map(({ id }) => id))('%s --help is what the checkout prints', async (id) => {
    const words = [...id.split(' '), '--help']
    const [ours, checkout] = await Promise.all([run(nsm, words), run(join(root, 'bin/nsm'), words)])
    expect(ours).toEqual(checkout)
    expect(ours.out).toContain('USAGE')
  })

  test('names no folder of the machine that built it', () => {
    const bytes = readFileSync(nsm)
    expect(bytes.includes(root)).toBe(false)
    expect(bytes.includes('nsm-package-')).toBe(false)
  })

  test('is small enough to download', async () => {
    const { out } = await run('sh', ['-c', 'zstd -6 -q -c "$0" | wc -c', nsm])
    expect(Number(out)).toBeGreaterThan(1_000_000)
    expect(Number(out)).toBeLessThan(43e6)
  })

  test.each([
    ['NODE_OPTIONS', '--require ./evil.cjs'],
    ['NODE_OPTIONS', '--inspect=127.0.0.1:0'],
    ['NODE_OPTIONS', '--no-such-flag'],
    ['NODE_PATH', '.'],
    ['NODE_EXTRA_CA_CERTS', './evil.cjs'],
    ['NODE_EXTRA_CA_CERTS', '/nonexistent'],
    ['NODE_REDIRECT_WARNINGS', 'written'],
    ['SSLKEYLOGFILE', 'written'],
    ['OPENSSL_CONF', 'openssl.cnf'],
    ['DEBUG', '*'],
  ])('does the same with %s=%s', async (name, value) => {
    const openssl = '[n]\nproviders=p\n[p]\nx=y\n[y]\nmodule=/nonexistent/evil.so\nactivate=1\n'
    writeFileSync(join(trap, 'openssl.cnf'), `nodejs_conf=n\nopenssl_conf=n\n${openssl}`)
    for (const words of [['--version'], ['version', '--json'], ['cleanup', '--json'], ['conect']]) {
      expect(await run(nsm, words, { [name]: value })).toEqual(await run(nsm, words))
    }
    expect(existsSync(join(trap, 'written'))).toBe(false)
  })

  test('loads native code from inside, not from the folder it stands in', async () => {
    const { exitCode, out } = await run(nsm, ['cleanup'])
    expect([exitCode, out.includes('PLANTED')]).toEqual([0, false])
    expect(readdirSync(join(dir, 'run', 'native'))).toEqual([])
  })

  test.each([
    ['noexec', 'noexec', /failed to map segment/],
    ['read-only', 'ro', /EROFS/],
    ['full', 'size=64k', /ENOSPC/],
  ])(
    'loads native code from the next place when one is %s, and lists every place when all are',
    async (_how, option, why) => {
      const make = 'mkdir -p -m 0700 "$NSM_RUNTIME_DIR/native" "$NSM_STATE_DIR/native"'
      const mount = (at: string) => `mount -t tmpfs -o ${option},mode=0700 none "${at}/native"`
      const inside = (...script: readonly string[]) =>
        run('unshare', ['--user', '--map-root-user', '--mount', 'sh', '-c', [make, ...script].join(' && '), nsm])
      expect(await inside(mount('$NSM_RUNTIME_DIR'), '"$0" cleanup')).toMatchObject({ exitCode: 0, err: '' })
      const { exitCode, err } = await inside(mount('$NSM_RUNTIME_DIR'), mount('$NSM_STATE_DIR'), '"$0" cleanup')
      expect([exitCode, err]).toEqual([9, expect.stringMatching(why)])
      for (const place of ['run/native', 'state/native', 'NSM_RUNTIME_DIR']) expect(err).toContain(place)
    },
  )

  test('says so and ends with 1 when its answer cannot be written', async () => {
    for (const words of ['--version', 'version', 'version --json', 'connect --help']) {
      const { exitCode, err } = await shell(`"$0" ${words} >/dev/full`)
      expect([words, exitCode]).toEqual([words, 1])
      expect(err).toContain('the answer cannot be written: ENOSPC')
    }
  })

  test('ends well when standard output is closed or its reader leaves', async () => {
    for (const words of ['--version', 'version', '--help', 'connect --help']) {
      expect((await shell(`"$0" ${words} >&-`)).exitCode).toBe(0)
      expect((await shell(`{ "$0" ${words}; echo $? >&2; } | true`)).err).toBe('0\n')
    }
  })

  test('opens no debugger on SIGUSR1 and goes on', async () => {
    const serve = await startedServe(nsm, onLoopback, { cwd: trap, env: { PATH: process.env['PATH'], ...dirs } })
    expect(serve.child.kill('SIGUSR1')).toBe(true)
    const { exitCode } = await run(nsm, ['invite', '--json'])
    expect(exitCode).toBe(0)
    const ended = once(serve.child, 'exit')
    serve.child.kill('SIGTERM')
    expect((await ended)[0]).toBe(143)
    expect(serve.err()).not.toContain('ebugger')
  })

  test('does not take the words of its own threads and of its background process for commands of a user', async () => {
    const { exitCode, err } = await run(nsm, ['packet-worker'])
    expect([exitCode, err.split('\n')[0]]).toEqual([2, 'Error (USAGE): there is no command "packet-worker"'])
  })
})
