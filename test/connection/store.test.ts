import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { clearJournal, createJournal, interfaceJournalPath, readJournal } from '../../src/connection/journal.ts'
import { openConnectionStore } from '../../src/connection/store.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'

let stateDir: string
let ids = 0

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'nsm-store-'))
})
afterEach(() => rm(stateDir, { recursive: true, force: true }))

const open = () => openConnectionStore({ stateDir, hostName: 'lap', randomId: () => `r${ids++}`, log: silentLog })

describe('ConnectionStore', () => {
  test('keeps client name, id, key and last answer over restarts, in a private file', async () => {
    const before = await open()
    const { connectionId, privateKey } = before.get('blue')
    const connection = create(ConnectionSchema, { id: connectionId, networkService: 'blue' })
    before.setLast('blue', { connection, manager: 'tcp://192.0.2.1:5001' })
    await before.flush()
    const after = await open()
    expect(after.clientName).toBe(before.clientName)
    expect(after.get('blue')).toMatchObject({ connectionId, manager: 'tcp://192.0.2.1:5001' })
    expect(Buffer.from(after.get('blue').privateKey)).toEqual(Buffer.from(privateKey))
    expect(after.get('blue').last?.networkService).toBe('blue')
    expect((await stat(join(stateDir, 'connections.json'))).mode & 0o777).toBe(0o600)
  })

  test('forgets the answer but not the id when a connection was closed', async () => {
    const store = await open()
    const { connectionId } = store.get('blue')
    store.setLast('blue', { connection: create(ConnectionSchema, {}), manager: 'm' })
    store.setLast('blue', undefined)
    await store.flush()
    const again = (await open()).get('blue')
    expect([again.connectionId, again.last, again.manager]).toEqual([connectionId, undefined, undefined])
  })

  test('gives every service an id and a key of its own', async () => {
    const store = await open()
    const [blue, green] = [store.get('blue'), store.get('green')]
    expect(blue.connectionId).not.toBe(green.connectionId)
    expect(Buffer.from(blue.privateKey).equals(Buffer.from(green.privateKey))).toBe(false)
    expect(store.get('blue')).toBe(blue)
  })

  test.each(['', 'no json', '{}', '[]', '{"version":2}', '{"version":1,"clientName":"a","services":{"b":{}}}'])(
    'begins anew when the file says %j',
    async (content) => {
      await writeFile(join(stateDir, 'connections.json'), content, { mode: 0o600 })
      const store = await open()
      expect(store.clientName).toMatch(/^lap-r\d+$/)
    },
  )

  test('refuses a file that others may write', async () => {
    await writeFile(join(stateDir, 'connections.json'), '{}')
    await (await import('node:fs/promises')).chmod(join(stateDir, 'connections.json'), 0o666)
    await expect(open()).rejects.toMatchObject({ code: 'PERMISSION' })
  })
})

describe('the interface journal', () => {
  test('is on disk before an interface exists and gone with the last one', async () => {
    const journal = createJournal(stateDir)
    await journal.add('nsm-a')
    await journal.add('nsm-b')
    expect(await readJournal(stateDir)).toEqual(['nsm-a', 'nsm-b'])
    await journal.remove('nsm-a')
    expect(JSON.parse(await readFile(interfaceJournalPath(stateDir), 'utf8'))).toEqual(['nsm-b'])
    await journal.remove('nsm-b')
    expect(await readdir(stateDir)).toEqual([])
    expect(await readJournal(stateDir)).toEqual([])
  })

  test('garbage in it is nothing to repair', async () => {
    for (const content of ['{', '{"a":1}', '7']) {
      await writeFile(interfaceJournalPath(stateDir), content, { mode: 0o600 })
      expect(await readJournal(stateDir)).toEqual([])
    }
    await clearJournal(stateDir)
    await clearJournal(stateDir)
  })
})
