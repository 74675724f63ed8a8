import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { chromiumMissing, openChromium } from '../support/chromium.ts'
import { keyringMissing, startKeyring } from '../support/keyring-session.ts'
import { browse, type LoginProvider, loginClient, startLoginProvider } from '../support/login-provider.ts'

/* The recipe for a person of docs/identity.md, with the real program on both sides and a real OpenID provider. */

let dir: string
let provider: LoginProvider
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

function nsm(who: 'server' | 'laptop', args: readonly string[], environment: Readonly<Record<string, string>> = {}) {
  const dirs = { NSM_STATE_DIR: join(dir, who), NSM_RUNTIME_DIR: join(dir, who, 'run') }
  const env = { ...process.env, ...dirs, ...environment }
  const child = spawn(nsmProgram, [...args], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  return child
}

async function ended(child: ReturnType<typeof nsm>) {
  const [out, err] = await Promise.all([all(child.stdout), all(child.stderr), once(child, 'exit')])
  return { exitCode: child.exitCode, out, err }
}

/** All of an output, which others may read too. */
async function all(stream: Readable): Promise<string> {
  let seen = ''
  stream.on('data', (part) => {
    seen += part
  })
  await once(stream, 'end')
  return seen
}

/** Waits for output that has what is looked for. */
function find(stream: Readable, wanted: RegExp): Promise<RegExpExecArray> {
  return new Promise((resolve, reject) => {
    let seen = ''
    stream.on('data', (part) => {
      seen += part
      const found = wanted.exec(seen)
      if (found) resolve(found)
    })
    stream.once('end', () => reject(new Error(`ended without ${wanted}: ${seen}`)))
  })
}

/** Starts the server of the company; gives the file that everybody finds. */
async function serve(): Promise<string> {
  const rules = [{ name: 'staff', match: { sub: 'alice' }, id: '/user/{sub}' }]
  const issuers = [{ name: 'staff', issuer: provider.url, client_id: loginClient, rules }]
  writeFileSync(join(dir, 'issuers.json'), JSON.stringify({ issuers }))
  const flags = ['--listen', '127.0.0.1:0', '--wireguard-port', '0', '--trust-domain', 'test.internal']
  const server = nsm('server', ['serve', '--issuers', join(dir, 'issuers.json'), ...flags])
  const [, joinString = ''] = await find(server.stdout, /^# (nsm:\S+)$/m)
  const path = join(dir, 'server.txt')
  writeFileSync(path, joinString)
  return path
}

/** Runs `nsm login` and does on the page what the person does. */
async function logIn(
  args: readonly string[],
  person: (page: string, code: string) => Promise<unknown>,
  environment: Readonly<Record<string, string>> = {},
) {
  const login = nsm('laptop', ['login', '--join', await serve(), ...args], environment)
  const result = ended(login)
  const [, page = '', code = ''] = await find(login.stderr, /^ {2}(http\S+)\n(?: {2}(\S+)\n)?/m)
  await person(page, code)
  return result
}

const who = /^spiffe:\/\/test.internal\/user\/alice {2}valid until/
const onAnotherDevice = (page: string, code: string) => browse(page, { login: 'alice', password: 'x', user_code: code })

test('a person logs in on another device, is somebody, and logs out', async () => {
  const { exitCode, out } = await logIn(['--method', 'device', '--store', 'none', '--json'], onAnotherDevice)
  expect({ exitCode, who: JSON.parse(out) }).toMatchObject({
    exitCode: 0,
    who: { apiVersion: 'nsm/login/v1', spiffeId: 'spiffe://test.internal/user/alice', login: { store: 'none' } },
  })
  expect(await ended(nsm('laptop', ['whoami']))).toMatchObject({ exitCode: 0, out: expect.stringMatching(who) })
  expect((await ended(nsm('laptop', ['logout']))).out).toBe('spiffe://test.internal/user/alice  forgotten\n')
  expect((await ended(nsm('laptop', ['whoami']))).exitCode).toBe(4)
  expect(provider.issued).toEqual([])
})

test.skipIf(chromiumMissing !== '')(`a person logs in with a real browser ${chromiumMissing}`, async () => {
  const browser = await openChromium()
  const inBrowser = async (url: string) => {
    const page = await browser.newPage()
    await page.goto(url)
    await page.getByPlaceholder('Enter any login').fill('alice')
    await page.getByPlaceholder('and password').fill('x')
    await page.getByRole('button', { name: 'Sign-in' }).click()
    await page.getByRole('button', { name: 'Continue' }).click()
    await page.getByText('go back to nsm').waitFor()
    return page.evaluate('document.documentElement.outerHTML')
  }
  try {
    const { exitCode, out } = await logIn(['--method', 'browser', '--store', 'file'], inBrowser)
    expect({ exitCode, out }).toEqual({ exitCode: 0, out: expect.stringMatching(who) })
    expect(out).toContain(`# ${provider.url}: the login renews itself, its refresh token is in the plain file\n`)
  } finally {
    await browser.close()
  }
})

test.skipIf(keyringMissing !== '')(
  `a login rests in the keychain, and its refresh token is nowhere else ${keyringMissing}`,
  async () => {
    const { environment, close } = await startKeyring(join(dir, 'home'))
    const { DBUS_SESSION_BUS_ADDRESS = '' } = environment
    const bus = { DBUS_SESSION_BUS_ADDRESS }
    try {
      const said = [await logIn(['--method', 'device'], onAnotherDevice, bus)]
      expect(said[0]).toMatchObject({ exitCode: 0, out: expect.stringContaining('is in the keychain\n') })
      const daemons = processesOf(join(dir, 'laptop'))
      expect(daemons.length).toBeGreaterThan(0)
      for (const args of [['whoami'], ['whoami', '--json'], ['status', '--json'], ['logout']]) {
        said.push(await ended(nsm('laptop', args, bus)))
      }
      expect(provider.issued).toHaveLength(1)
      expect(provider.asked.at(-1)?.get('token')).toBe(provider.issued[0])
      const seen = [...said.flatMap(({ out, err }) => [out, err]), ...daemons, ...filesBelow(dir)].join('\n')
      expect(seen).toContain('spiffe://test.internal/user/alice')
      expect(seen).not.toContain(provider.issued[0])
    } finally {
      await close()
    }
  },
)

/** What other users may see of the processes that have a text in their environment, and what root sees. */
function processesOf(mark: string): string[] {
  const read = (path: string) => {
    try {
      return readFileSync(path, 'latin1')
    } catch {
      return ''
    }
  }
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => read(`/proc/${pid}/environ`) + read(`/proc/${pid}/cmdline`))
    .filter((seen) => seen.includes(mark))
}

/** The bytes of every file, but those of the keychain itself. */
function filesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((file) => file.isFile() && !file.parentPath.startsWith(join(path, 'home')))
    .map((file) => readFileSync(join(file.parentPath, file.name), 'latin1'))
}
