import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { runCommandLine } from '../../src/commands/main.ts'
import { fakeContext, runFake as run } from './fake-context.ts'

let dir = ''
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-dns-commands-'))
})
afterEach(async () => {
  await rm(dir, { recursive: true, force: true })
})

describe('dns status', () => {
  test('shows one line per scope, who else learns its names, upstreams, counters and drops', async () => {
    const { out, exitCode } = await run(['dns', 'status'])
    expect(exitCode).toBe(0)
    expect(out.split('\n')).toEqual([
      'SCOPE          MODE       SERVERS      QUERIES  CACHED  SERVICE  HOST  NOBODY  MEDIAN',
      'corp.example   fanout     10.64.0.1    5        2       2        1     0       <=2ms',
      'own.example    exclusive  10.64.0.1    5        2       2        1     0       <=2ms',
      '(other names)  -          192.168.1.1  5        2       2        1     0       -',
      '# names under corp.example are also asked at 192.168.1.1',
      '# upstream 10.64.0.1 port 53: 1.5 ms, 3 sent, 2 replies, 1 silences, 0 unreachable, 1 forged or broken, not waited for',
      '# system resolver set by way of systemd-resolved: programs ask systemd-resolved 252',
      '# listens on 127.0.0.55:53; 12 queries, 4 from the cache, 1 joined, 1 without any answer',
      '# cache: 3 replies, 2.0 KiB',
      '# dropped or refused: malformed 2, foreign-peer 1',
    ])
  })

  test('says so when no background process runs, and starts none', async () => {
    const { out, exitCode, call } = await run(['dns', 'status'], { daemonRuns: false })
    expect([exitCode, out]).toEqual([0, '# no resolver runs: no service brings names'])
    expect(call('open')).toEqual({ start: false })
  })

  test('fails as the background process fails', async () => {
    const failure = new NsmError('PERMISSION', 'only root', 'sudo')
    expect((await run(['dns', 'status'], { failure })).exitCode).toBe(9)
  })
})

describe('dns query', () => {
  test('asks the resolver of the background process', async () => {
    const { call, out } = await run(['dns', 'query', 'db.corp.example'])
    const server = { address: '127.0.0.55', port: 53 }
    expect(call('queryDns')).toEqual({ server, name: 'db.corp.example', type: 'A', overTcp: false })
    expect(out.split('\n')).toEqual([
      'corp.example  5  SOA  ns host 1 2 3 4 5',
      '# NXDOMAIN, extended error 22 (qr ra); 127.0.0.55 over UDP, 2.5 ms, 90 bytes',
    ])
  })

  test('asks the server it is given without any background process', async () => {
    const argv = ['dns', 'query', 'a.example', '--type', 'MX', '--tcp', '--server', '[::1]:5300']
    const { call } = await run(argv, { daemonRuns: false })
    const server = { address: '::1', port: 5300 }
    expect(call('queryDns')).toEqual({ server, name: 'a.example', type: 'MX', overTcp: true })
  })

  test.each([
    [['dns', 'query'], 2],
    [['dns', 'query', 'a', '--server', 'ns1'], 2],
    [['dns', 'query', 'a'], 7],
  ])('%j without a background process ends with %i', async (argv, exitCode) => {
    expect((await run(argv, { daemonRuns: false })).exitCode).toBe(exitCode)
  })
})

describe('dns trace', () => {
  test('shows every contestant, what it said and when, who won and why', async () => {
    const { call, out } = await run(['dns', 'trace', 'db.corp.example', '--type', 'A'])
    expect(call('dnsTrace')).toEqual({ name: 'db.corp.example', type: 'A' })
    expect(out.split('\n')).toEqual([
      'db.corp.example A: NOERROR (qr rd ra) in 1.5 ms',
      '# programs get this answer from the cache at the moment',
      '',
      'db.corp.example  scope corp.example, fanout, 1.5 ms',
      '  won  10.64.0.1    service  1.5 ms  positive (tcp)  10.64.0.9  first positive answer',
      '  -    192.168.1.1  host     20 ms   SERVFAIL        -          does not know',
      '  -    192.168.1.2  host     -       not-asked       -          not asked',
      '',
      'db.corp.example  60  A  10.64.0.9',
    ])
  })
})

test('dns flush says how many answers are forgotten', async () => {
  expect((await run(['dns', 'flush'])).out).toBe('# 3 cached replies forgotten')
})

describe('dns serve', () => {
  const stopped = { signal: AbortSignal.abort() }

  test('serves the flags and shows where', async () => {
    const argv = ['dns', 'serve', '--listen', '127.0.0.1:5300', '--default', '192.0.2.1', '--scope', 'com=10.0.0.1']
    const { call, out, err, recorded } = await run(argv, stopped)
    expect(call('startDnsServe')).toMatchObject({ listen: { port: 5300 }, defaults: [{ address: '192.0.2.1' }] })
    expect(out.split('\n')[0]).toBe('listening on 127.0.0.1:5300')
    expect(err).toContain('every name under the top-level domain com')
    expect(recorded.calls.map(({ name }) => name)).toContain('stop')
  })

  test('reads its config file again on SIGHUP; a broken one changes nothing', async () => {
    const file = join(dir, 'dns.json')
    await writeFile(file, '{"listen": "127.0.0.1:5300", "default": ["192.0.2.1"]}')
    const stop = new AbortController()
    const { context, recorded } = fakeContext({ signal: stop.signal })
    const ended = runCommandLine(['dns', 'serve', '--config', file, '--scope', 'a.example=10.0.0.1'], context)
    const said = async (text: string, action: () => void) => {
      const told = new Promise<void>((resolve) => {
        const { push } = recorded.err
        recorded.err.push = (...lines) => {
          if (lines.join().includes(text)) resolve()
          return push.apply(recorded.err, lines)
        }
      })
      action()
      await told
    }
    while (recorded.hangups.length === 0) await new Promise((resolve) => setImmediate(resolve))
    await writeFile(file, '{"default": ["192.0.2.2"]}')
    await said('settings read again', () => recorded.hangups[0]?.())
    const reload = recorded.calls.find(({ name }) => name === 'reload')?.request
    expect(reload).toMatchObject({ defaults: [{ address: '192.0.2.2' }], scopes: [{ suffix: 'a.example' }] })
    await writeFile(file, '{')
    await said('not JSON', () => recorded.hangups[0]?.())
    expect(recorded.calls.filter(({ name }) => name === 'reload')).toHaveLength(1)
    stop.abort()
    expect(await ended).toBe(0)
  })

  test('is a USAGE error for a config file that is not there', async () => {
    const { exitCode, err } = await run(['dns', 'serve', '--config', join(dir, 'none.json')], stopped)
    expect([exitCode, err.includes('ENOENT')]).toEqual([2, true])
  })
})

describe('the topic dns', () => {
  test.each([[['dns', '--help']], [['help', 'dns']]])('%j lists its commands', async (argv) => {
    const { out, exitCode } = await run(argv)
    expect(exitCode).toBe(0)
    expect(out.split('\n').map((line) => line.split('  ')[0])).toEqual(
      ['status', 'query', 'trace', 'flush', 'serve'].map((verb) => `nsm dns ${verb}`),
    )
  })

  test.each([[['dns', 'trace', '--help']], [['help', 'dns', 'trace']]])('%j is the help of one', async (argv) => {
    expect((await run(argv)).out).toContain('nsm dns trace NAME [flags]')
  })

  test.each([
    [['dns'], 'nsm dns is followed by status, query, trace, flush, serve'],
    [['dns', 'nope'], 'not "nope"'],
  ])('%j is a USAGE error that names the verbs', async (argv, message) => {
    const { exitCode, err } = await run(argv)
    expect([exitCode, err.includes(message)]).toEqual([2, true])
  })
})
