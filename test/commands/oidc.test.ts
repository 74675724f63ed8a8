import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { runFake as run } from './fake-context.ts'

const dir = mkdtempSync(join(tmpdir(), 'nsm-oidc-'))
/** Variables of flags are read from the process. */
afterEach(() => vi.unstubAllEnvs())
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const joinString = `nsm://192.0.2.1:5001/?td=acme.example&pin=sha256-${'A'.repeat(43)}`
const file = (name: string, text: string) => {
  writeFileSync(join(dir, name), text)
  return join(dir, name)
}

describe('connect with an ID token', () => {
  test('shows the token of a file, of standard input or of the job', async () => {
    const environment = { NSM_JOIN_STRING: joinString }
    const path = file('token', 'a.b.c\n')
    const runs = [
      await run(['connect', 'x', '--token-file', path], { environment }),
      await run(['connect', 'x', '--token-file', '-'], { environment, input: 'a.b.c' }),
      await run(['connect', 'x'], { environment: { ...environment, NSM_ID_TOKEN: 'a.b.c' } }),
    ]
    vi.stubEnv('NSM_ID_TOKEN_FILE', path)
    runs.push(await run(['connect', 'x'], { environment }))
    for (const { call } of runs) expect(call('connect')).toMatchObject({ joinString, idToken: 'a.b.c' })
  })

  test('says with --verbose where the token is from, and never prints it', async () => {
    const environment = { NSM_JOIN_STRING: joinString, NSM_ID_TOKEN: 'canary.b.c' }
    const { err, out } = await run(['connect', 'x', '--verbose'], { environment })
    expect(err).toContain('ID token of NSM_ID_TOKEN')
    expect(err + out).not.toContain('canary')
    const refused = await run(['connect', 'x', '--json'], { environment: { ...environment, NSM_ID_TOKEN: 'canary' } })
    expect(refused.exitCode).toBe(2)
    expect(refused.err + refused.out).not.toContain('canary')
  })

  test('leaves the token of the job alone when the join string has one, or there is no join string', async () => {
    const withToken = { NSM_JOIN_STRING: `${joinString}&jt=abc`, NSM_ID_TOKEN: 'a.b.c' }
    for (const environment of [withToken, { NSM_ID_TOKEN: 'a.b.c' }]) {
      const { call } = await run(['connect', 'x'], { environment })
      expect(call('connect')).not.toHaveProperty('idToken')
    }
  })

  test('does not read join string and token from one standard input', async () => {
    const { exitCode, call } = await run(['connect', 'x', '--join', '-', '--token-file', '-'], { input: joinString })
    expect(exitCode).toBe(2)
    expect(call('connect')).toBeUndefined()
  })
})

describe('serve with issuers', () => {
  const stopped = AbortSignal.abort()
  const url = 'https://issuer.example'

  test('passes one issuer with its rules, or the path of a file', async () => {
    const flags = await run(['serve', '--issuer', url, '--allow', 'a=1,b=2', '--allow', 'c=3'], { signal: stopped })
    expect(flags.call('serve')).toMatchObject({ issuers: { url, allowed: ['a=1,b=2', 'c=3'] } })
    vi.stubEnv('NSM_ISSUER', url)
    vi.stubEnv('NSM_ALLOW', 'a=1,b=2')
    const variables = await run(['serve'], { signal: stopped })
    expect(variables.call('serve')).toMatchObject({ issuers: { url, allowed: ['a=1,b=2'] } })
    vi.unstubAllEnvs()
    const path = file('issuers.json', '{}')
    const text = await run(['serve', '--issuers', path], { signal: stopped })
    expect(text.call('serve')).toMatchObject({ issuers: { path } })
    expect((await run(['serve'], { signal: stopped })).call('serve')).not.toHaveProperty('issuers')
  })

  test.each([[['--issuer', url]], [['--allow', 'a=1']], [['--issuers', file('other.json', '{}'), '--issuer', url]]])(
    'refuses %j',
    async (flags) => {
      const { exitCode, call } = await run(['serve', ...flags], { signal: stopped })
      expect(exitCode).toBe(2)
      expect(call('serve')).toBeUndefined()
    },
  )

  test('prints the join string for ID tokens as a comment, so that the output still joins by its own token', async () => {
    const serve = {
      ...{ joinString: `${joinString}&jt=abc`, openJoinString: joinString },
      ...{ failed: new Promise<never>(() => {}), reload: async () => {}, stop: async () => {} },
    }
    const text = await run(['serve'], { signal: stopped, serve })
    expect(text.out.split('\n')).toContain(`# ${joinString}`)
    expect(text.out.split('\n').filter((line) => !line.startsWith('#'))).toEqual([`${joinString}&jt=abc`])
    const json = await run(['serve', '--json'], { signal: stopped, serve })
    expect(JSON.parse(json.out)).toMatchObject({ openJoinString: joinString })
  })
})
