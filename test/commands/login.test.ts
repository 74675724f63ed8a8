import { describe, expect, test, vi } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { identityText } from '../../src/ui/login-text.ts'
import { type FakeOptions, runFake, upView } from './fake-context.ts'
import { someIdentity, someLogout } from './fake-login.ts'

/** On a machine that has nothing connected, unless the test says so. */
const run = (argv: readonly string[], options: FakeOptions = {}) => runFake(argv, { connections: [], ...options })
const joinString = 'nsm://192.0.2.1:5001/?td=acme.example&pin=x'
const terminal = { isTerminal: true, environment: { NSM_JOIN_STRING: joinString } }

describe('login', () => {
  test('shows the page on standard error, hands the tokens on and prints who this machine is', async () => {
    const { exitCode, out, err, call } = await run(['login', '--method', 'browser'], terminal)
    expect(exitCode).toBe(0)
    expect(err).toContain('  https://issuer.example/')
    expect(out).toBe('spiffe://acme.example/user/alice  valid until 2026-01-01T13:00:00.000Z')
    const tokens = { idToken: 'canary.b.c', refreshToken: 'canary-refresh' }
    const where = { issuer: 'https://issuer.example', clientId: 'nsm-cli', store: 'auto' }
    expect(call('login')).toEqual({ joinString, ...tokens, ...where })
    expect(out + err).not.toContain('canary')
  })

  test.each([
    ['the browser where there is a display', { DISPLAY: ':0' }, 'browser'],
    ['the browser where there is Wayland', { WAYLAND_DISPLAY: 'wayland-0' }, 'browser'],
    ['another device where there is none', {}, 'device'],
  ])('takes %s', async (_what, environment, method) => {
    const { call, err } = await run(['login'], {
      ...terminal,
      environment: { ...terminal.environment, ...environment },
    })
    expect(call('obtainLogin')).toEqual({ joinString, method, keep: true })
    expect(err.includes('ABCD')).toBe(method === 'device')
  })

  test.each([
    ['without a terminal', { ...terminal, isTerminal: false }],
    ['in CI', { ...terminal, environment: { ...terminal.environment, CI: 'true' } }],
  ])('%s asks nobody, unless the method is said', async (_what, options) => {
    const asked = await run(['login', '--json'], options)
    expect(asked.exitCode).toBe(4)
    expect(JSON.parse(asked.out)).toMatchObject({
      error: { code: 'IDENTITY', next: expect.stringContaining('--method') },
    })
    expect(asked.call('obtainLogin')).toBeUndefined()
    expect((await run(['login', '--method', 'device'], options)).exitCode).toBe(0)
  })

  test('reads the join string from standard input, and needs one', async () => {
    const read = await run(['login', '--join', '-', '--method', 'device'], { input: `# to join\n${joinString}\n` })
    expect(read.call('login')).toMatchObject({ joinString })
    expect((await run(['login', '--method', 'device'])).exitCode).toBe(2)
    vi.stubEnv('NSM_JOIN', '/nonexistent')
    expect((await run(['login', '--method', 'device'], terminal)).exitCode).toBe(2)
    vi.unstubAllEnvs()
  })

  test.each([
    ['--store keychain', ['--store', 'keychain'], {}, 'keychain', true],
    ['the variable', [], { NSM_LOGIN_STORE: 'file' }, 'file', true],
    ['--store none, with which no refresh token is asked for', ['--store', 'none'], {}, 'none', false],
  ])('keeps the login where it is told by %s', async (_what, args, environment, store, keep) => {
    for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value)
    const { call } = await run(['login', '--method', 'device', ...args], terminal)
    vi.unstubAllEnvs()
    expect([call('login'), call('obtainLogin')]).toMatchObject([{ store }, { keep }])
  })

  test('asks nobody while a connection uses the identity, nor starts a process to find out', async () => {
    const { exitCode, call, err } = await run(['login', '--method', 'device'], { ...terminal, connections: [upView] })
    expect([exitCode, call('obtainLogin'), call('open')]).toEqual([8, undefined, { start: false }])
    expect(err).toContain('nsm disconnect')
  })

  test('knows no other place', async () => {
    expect((await run(['login', '--method', 'device', '--store', 'keyutils'], terminal)).exitCode).toBe(2)
  })

  test('that fails ends with its code', async () => {
    const failure = new NsmError('IDENTITY', 'the issuer refused (access_denied)', 'run nsm login again')
    expect((await run(['login', '--method', 'device'], { ...terminal, failure })).exitCode).toBe(4)
  })
})

describe('logout and whoami', () => {
  test('logout says whose identity is gone', async () => {
    expect((await run(['logout'])).out).toBe('spiffe://acme.example/user/alice  forgotten')
    expect(JSON.parse((await run(['logout', '--json'])).out)).toEqual(someLogout)
    const nobody = await run(['logout'], { logout: { ...someLogout, forgotten: [] } })
    expect(nobody).toMatchObject({ exitCode: 0, out: '# there was no identity' })
  })

  test.each([
    [['logout'], { all: false }],
    [['logout', 'acme.example'], { all: false, whose: 'acme.example' }],
    [['logout', '--all'], { all: true }],
  ])('%j asks for what was said', async (args, request) => {
    expect((await run(args)).call('logout')).toEqual(request)
  })

  test('logout takes a name or --all, not both', async () => {
    const both = await run(['logout', 'acme.example', '--all'])
    expect([both.exitCode, both.call('logout')]).toEqual([2, undefined])
  })

  test('whoami prints the identity', async () => {
    const { exitCode, out } = await run(['whoami'])
    expect({ exitCode, out }).toEqual({ exitCode: 0, out: expect.stringContaining('valid until') })
  })

  test('logout says on standard error what did not succeed', async () => {
    const warnings = ['the issuer is not told: it \u001b[2Jdoes not answer']
    const { exitCode, out, err } = await run(['logout'], { logout: { ...someLogout, warnings } })
    expect({ exitCode, out, err }).toEqual({
      exitCode: 0,
      out: 'spiffe://acme.example/user/alice  forgotten',
      err: '# the issuer is not told: it \\x1b[2Jdoes not answer',
    })
  })

  const issuer = 'https://login.acme.example'
  test.each([
    [{ store: 'keychain', reasons: [] }, `${issuer}: the login renews itself, its refresh token is in the keychain`],
    [
      { store: 'encrypted-file', reasons: ['keychain: there is no D-Bus session'] },
      `${issuer}: the login renews itself, its refresh token is in the encrypted file (keychain: there is no D-Bus session)`,
    ],
    [{ store: 'file', reasons: [] }, `${issuer}: the login renews itself, its refresh token is in the plain file`],
    [{ store: 'none', reasons: [] }, `${issuer}: the login ends with its session, no refresh token is kept`],
    [
      { store: 'none', reasons: ['the issuer gave no refresh token'] },
      `${issuer}: the login ends with its session, no refresh token is kept (the issuer gave no refresh token)`,
    ],
    [
      { store: 'none', reasons: [], refused: 'invalid_grant' },
      `${issuer} renews the login no more (invalid_grant): log in again with nsm login`,
    ],
  ] as const)('whoami says of the login %j where it rests', async (login, text) => {
    const { out } = await run(['whoami'], { identity: { ...someIdentity, login: { issuer, ...login } } })
    expect(out.split('\n').slice(1)).toEqual([`# ${text}`])
  })

  test('the text of an expired identity and of none says so', () => {
    const nowMs = Date.UTC(2026, 0, 2)
    expect(identityText(someIdentity, nowMs)).toContain('expired since 2026-01-01T13:00:00.000Z')
    expect(identityText({ apiVersion: 'nsm/whoami/v1' }, nowMs)).toContain('nsm login')
  })
})
