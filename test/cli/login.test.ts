import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { browse, loginClient, startLoginProvider } from '../support/login-provider.ts'

/* The recipe for a person of docs/identity.md, with the real program on both sides and a real OpenID provider. */

let dir: string
let provider: Awaited<ReturnType<typeof startLoginProvider>>
const children: ChildProcess[] = []

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-login-cli-'))
  provider = await startLoginProvider()
})
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null) continue
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  await provider.close()
  rmSync(dir, { recursive: true, force: true })
})

function nsm(who: 'server' | 'laptop', args: readonly string[]) {
  const dirs = { NSM_STATE_DIR: join(dir, who), NSM_RUNTIME_DIR: join(dir, who, 'run') }
  const child = spawn(nsmProgram, [...args], { env: { ...process.env, ...dirs }, stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  return child
}

async function ended(child: ReturnType<typeof nsm>) {
  const [out] = await Promise.all([text(child.stdout), once(child, 'exit')])
  return { exitCode: child.exitCode, out }
}

/** Waits for output that has what is looked for. */
async function find(stream: Readable, wanted: RegExp): Promise<RegExpExecArray> {
  let seen = ''
  for await (const part of stream.iterator({ destroyOnReturn: false })) {
    seen += part
    const found = wanted.exec(seen)
    if (found) return found
  }
  throw new Error(`ended without ${wanted}: ${seen}`)
}

test('a person logs in on another device, is somebody, and logs out', async () => {
  const rules = [{ name: 'staff', match: { sub: 'alice' }, id: '/user/{sub}' }]
  const issuers = [{ name: 'staff', issuer: provider.url, client_id: loginClient, rules }]
  writeFileSync(join(dir, 'issuers.json'), JSON.stringify({ issuers }))
  const flags = ['--listen', '127.0.0.1:0', '--wireguard-port', '0', '--trust-domain', 'test.internal']
  const server = nsm('server', ['serve', '--issuers', join(dir, 'issuers.json'), ...flags])
  const [, joinString = ''] = await find(server.stdout, /^# (nsm:\S+)$/m)
  writeFileSync(join(dir, 'server.txt'), joinString)

  const login = nsm('laptop', ['login', '--join', join(dir, 'server.txt'), '--method', 'device', '--json'])
  const result = ended(login)
  const [, page = '', code = ''] = await find(login.stderr, /^ {2}(http\S+)\n {2}(\S+)$/m)
  await browse(page, { login: 'alice', password: 'x', user_code: code })
  const { exitCode, out } = await result
  expect({ exitCode, who: JSON.parse(out) }).toMatchObject({
    exitCode: 0,
    who: { apiVersion: 'nsm/login/v1', spiffeId: 'spiffe://test.internal/user/alice' },
  })

  const who = await ended(nsm('laptop', ['whoami']))
  expect(who).toEqual({
    exitCode: 0,
    out: expect.stringMatching(/^spiffe:\/\/test.internal\/user\/alice {2}valid until/),
  })
  expect((await ended(nsm('laptop', ['logout']))).out).toBe('spiffe://test.internal/user/alice  forgotten\n')
  expect((await ended(nsm('laptop', ['whoami']))).exitCode).toBe(4)
}, 60_000)
