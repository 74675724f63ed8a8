import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Environment } from '../../src/base/settings.ts'
import { findIdToken } from '../../src/daemon/oidc-ci-token.ts'

const pin = `sha256-${'A'.repeat(43)}`
const server = `nsm://192.0.2.1:5001/?td=acme.example&pin=${pin}`
const token = 'aaa.bbb.ccc'

function find(environment: Environment, tokenFile?: string, joinString = server) {
  const readInput = async () => `${token}\n`
  return findIdToken(joinString, { environment, tokenFile, readInput, signal: AbortSignal.timeout(120_000) })
}

/** GitHub's token service as a job sees it. */
async function gitHub(status: number, body: string) {
  const asked: IncomingMessage[] = []
  const http = createServer((request, response) => {
    asked.push(request)
    response.writeHead(status, { location: 'http://127.0.0.1:1/' }).end(body)
  })
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void http.close())
  const { port } = http.address() as AddressInfo
  const environment = {
    GITHUB_ACTIONS: 'true',
    ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${port}/token?api-version=2.0`,
    ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'canary-request-token',
  }
  return { asked, environment }
}

function fileWith(text: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'nsm-token-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  writeFileSync(join(dir, 'token'), text)
  return join(dir, 'token')
}

describe('findIdToken', () => {
  test('asks GitHub for a token with the audience of the server, and shows its bearer token to nobody else', async () => {
    const { asked, environment } = await gitHub(200, JSON.stringify({ value: token }))
    expect(await find(environment)).toEqual({ idToken: token, from: 'GitHub Actions' })
    expect(asked[0]?.url).toBe('/token?api-version=2.0&audience=nsm%3A%2F%2Facme.example')
    expect(asked[0]?.headers.authorization).toBe('bearer canary-request-token')
  })

  test.each([
    ['takes a named file before every platform', { NSM_ID_TOKEN: 'x.y.z' }, 'file'],
    ['takes GitLab by its variable', { GITLAB_CI: 'true', NSM_ID_TOKEN: token }, 'NSM_ID_TOKEN'],
  ])('%s', async (_what, environment, from) => {
    const path = from === 'file' ? fileWith(`${token}\n`) : undefined
    expect(await find(environment, path)).toEqual({ idToken: token, from: path ?? from })
  })

  test('reads a file anew each time, so that a token that the kubelet replaced counts', async () => {
    const path = fileWith(token)
    await find({}, path)
    writeFileSync(path, 'ddd.eee.fff')
    expect(await find({}, path)).toMatchObject({ idToken: 'ddd.eee.fff' })
  })

  test('reads standard input for -', async () => {
    expect(await find({}, '-')).toEqual({ idToken: token, from: '-' })
  })

  test('looks nowhere when the join string carries a token of its own', async () => {
    const { asked, environment } = await gitHub(500, '')
    expect(await find(environment, '/nonexistent', `# comment\n${server}&jt=abc\n`)).toBeUndefined()
    expect(asked).toEqual([])
  })

  test('finds nothing on a machine without a platform', async () => {
    expect(await find({})).toBeUndefined()
  })

  test.each([
    ['no permission', 403, '{"message":"no"}', 'IDENTITY'],
    ['another document', 200, '{"token":"a.b.c"}', 'IDENTITY'],
    ['no JSON', 200, 'hello', 'IDENTITY'],
    ['no token in it', 200, '{"value":"canary"}', 'USAGE'],
    ['a redirect', 302, '', 'UNREACHABLE'],
  ])('GitHub with %s is an error that echoes no secret', async (_what, status, body, code) => {
    const { environment } = await gitHub(status, body)
    const error = await find(environment).catch((thrown: Error) => thrown)
    expect(error).toMatchObject({ code })
    expect(String(error)).not.toContain('canary')
  })

  test.each([
    [{ GITHUB_ACTIONS: 'true' }, 'permissions: id-token: write'],
    [{ GITLAB_CI: 'true' }, 'id_tokens'],
  ])('says what a job of %j lacks', async (environment, advice) => {
    await expect(find(environment)).rejects.toMatchObject({ code: 'IDENTITY', next: expect.stringContaining(advice) })
  })

  test.each([['canary'], ['canary.b'], ['a.b.c.d'], ['a b.c.d'], [`${'a'.repeat(20_000)}.b.c`], ['']])(
    'a file with %.20j holds no token, and is not quoted',
    async (text) => {
      const error = await find({}, fileWith(text)).catch((thrown: Error) => thrown)
      expect(error).toMatchObject({ code: 'USAGE' })
      expect(String(error)).not.toContain('canary')
    },
  )

  test('a file that is not there is USAGE', async () => {
    await expect(find({}, '/nonexistent')).rejects.toMatchObject({ code: 'USAGE' })
  })
})
