import { once } from 'node:events'
import { mkdtemp, rm, symlink } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openKeychain } from '../../src/daemon/keychain/open.ts'
import { findSessionBus } from '../../src/daemon/keychain/session-bus.ts'
import { type KeyringSession, keyringMissing, startKeyring } from '../support/keyring-session.ts'
import { scratchDir } from '../support/scratch.ts'

const failure = (message: RegExp) => ({ code: 'NOT_READY', message: expect.stringMatching(message) })

describe.skipIf(keyringMissing !== '')(`the keychain of gnome-keyring ${keyringMissing}`, () => {
  let home: string
  let session: KeyringSession
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'nsm-keyring-'))
    session = await startKeyring(home)
  })
  afterAll(async () => {
    await session.close()
    await rm(home, { recursive: true, force: true, maxRetries: 5 })
  })
  const keychain = (account: string) => openKeychain(account, { environment: session.environment })

  test('gives back what was put, replaces it, and forgets it', async () => {
    const store = keychain('spiffe://acme.example/user/alice /state')
    expect(await store.get()).toBeUndefined()
    for (const secret of ['first', 'a "second" one, \u00e4 and \n']) {
      await store.put(secret)
      expect(await store.get()).toBe(secret)
    }
    await store.remove()
    expect(await store.get()).toBeUndefined()
    await store.remove()
  })

  test('keeps accounts apart, and a secret of 16 KiB whole', async () => {
    const [alice, bob] = [keychain('alice'), keychain('bob')]
    await alice.put('a'.repeat(16_384))
    await bob.put('b')
    await bob.remove()
    expect(await alice.get()).toBe('a'.repeat(16_384))
  })

  test('is the same for the next process of that user', async () => {
    await keychain('carol').put('kept')
    expect(await keychain('carol').get()).toBe('kept')
  })

  test('says so when it is locked and nobody unlocks it, and has what it had when it is open again', async () => {
    await keychain('dave').put('kept')
    await session.close()
    session = await startKeyring(home, 'locked')
    // Some versions refuse at once where no prompt can be shown, others wait for it without end.
    const locked = openKeychain('dave', { environment: session.environment, timeoutMs: 3_000 })
    for (const call of [() => locked.put('canary'), () => locked.get(), () => locked.remove()]) {
      await expect(call()).rejects.toMatchObject(failure(/dismissed|is it locked/))
    }
    await session.close()
    session = await startKeyring(home)
    expect(await keychain('dave').get()).toBe('kept')
  })
})

describe('a keychain that is not there', () => {
  test('is a reason, not a wait: no D-Bus session', async () => {
    const store = openKeychain('alice', { environment: {} })
    for (const call of [() => store.put('canary'), () => store.get(), () => store.remove()]) {
      await expect(call()).rejects.toMatchObject(failure(/no D-Bus session/))
    }
  })

  test('is a reason: no add-on for this platform', async () => {
    const program = [process.execPath, '-e', answering({ error: "Cannot find module '@napi-rs/keyring'" })] as const
    const store = openKeychain('alice', { environment: await someBus(), program })
    await expect(store.get()).rejects.toMatchObject(failure(/Cannot find module/))
  })

  test('whose bus takes the connection and never answers is given up in time', async () => {
    const store = openKeychain('alice', { environment: await someBus(), timeoutMs: 1_500 })
    await expect(store.put('canary')).rejects.toMatchObject(failure(/does not answer within 1.5 s/))
  })

  test.each([
    ['ends at once', 'process.exit(1)'],
    ['says what is no answer', 'console.log("what?")'],
    ['says a list', answering([])],
  ])('is a reason: its process %s', async (_what, script) => {
    const store = openKeychain('alice', { environment: await someBus(), program: [process.execPath, '-e', script] })
    await expect(store.put('canary')).rejects.toMatchObject(failure(/without an answer/))
  })

  test('is a reason: its process cannot be started', async () => {
    const store = openKeychain('alice', { environment: await someBus(), program: ['/nonexistent'] })
    await expect(store.put('canary')).rejects.toMatchObject(failure(/cannot be started/))
  })

  test('sees the secret in neither the arguments nor the environment of its process', async () => {
    const script = `const all = process.argv.concat(Object.entries(process.env).flat()).join()
      process.stdin.resume().on('end', () => process.stdout.write(JSON.stringify({ secret: String(all.includes('canary')) })))`
    const environment = { ...(await someBus()), OTHER: 'canary', NSM_JOIN_STRING: 'canary', LD_PRELOAD: 'canary' }
    const store = openKeychain('alice', { environment, program: [process.execPath, '-e', script] })
    await store.put('canary')
    expect(await store.get()).toBe('false')
  })
})

describe('findSessionBus', () => {
  const uid = process.getuid?.() ?? 0

  test('takes the own bus of the environment, wherever it stands in the address', async () => {
    const path = await listening('a,b%c')
    const escaped = path.replace(/[,%]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`)
    const own = `unix:guid=01,path=${escaped}`
    for (const address of [own, `tcp:host=a;${own}`, `unix:path=/nonexistent;${own},x=y`]) {
      const found = await findSessionBus({ DBUS_SESSION_BUS_ADDRESS: address }, uid)
      expect(found?.startsWith(own)).toBe(true)
    }
  })

  test.each([
    ['that runs a program', (path: string) => `unixexec:path=${path}`],
    ['that is over the network', () => 'tcp:host=192.0.2.1,port=1'],
    ['whose owner cannot be seen', () => 'unix:abstract=/tmp/dbus-1'],
    ['that is no socket', () => 'unix:path=/etc/hostname'],
    ['that is broken', () => 'unix:path=%zz'],
  ])('takes no bus %s', async (_what, address) => {
    const environment = { DBUS_SESSION_BUS_ADDRESS: address(await listening('bus')) }
    expect(await findSessionBus(environment, notThere)).toBeUndefined()
  })

  test('takes no bus of another user, by link neither', async () => {
    const path = await listening('bus')
    const link = join(await scratchDir(), 'link')
    await symlink(path, link)
    for (const place of [path, link]) {
      expect(await findSessionBus({ DBUS_SESSION_BUS_ADDRESS: `unix:path=${place}` }, uid + 1)).toBeUndefined()
    }
  })
})

/** A user without a session of systemd. */
const notThere = 4_000_000

/** A process that answers whatever it is asked. */
function answering(answer: unknown): string {
  return `process.stdin.resume().on('end', () => process.stdout.write(${JSON.stringify(JSON.stringify(answer))}))`
}

/** A bus that takes connections and never says anything. */
async function someBus(): Promise<Readonly<Record<string, string>>> {
  return { DBUS_SESSION_BUS_ADDRESS: `unix:path=${await listening('bus')}` }
}

async function listening(name: string): Promise<string> {
  const path = join(await scratchDir(), name)
  const server = createServer((socket) => void socket.on('error', () => {}))
  await once(server.listen(path), 'listening')
  onTestFinished(() => void server.close())
  return path
}
