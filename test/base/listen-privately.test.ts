import { once } from 'node:events'
import { stat, writeFile } from 'node:fs/promises'
import { createConnection, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { listenPrivately } from '../../src/base/listen-privately.ts'
import { scratchDir } from '../support/scratch.ts'

let path: string
const servers: Server[] = []
beforeEach(async () => {
  path = join(await scratchDir(), 'own.sock')
})
afterEach(async () => {
  for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve))
})

const open = async (at = path) => {
  const server = createServer()
  servers.push(server)
  return { server, stop: await listenPrivately(server, at) }
}
const modeOf = async (at: string) => (await stat(at)).mode & 0o777
/** Reading it alone would change it for a moment. */
const umask = () => {
  const before = process.umask(0o022)
  process.umask(before)
  return before
}

test('a private socket is nobody else’s, whatever the umask, which stays as it was', async () => {
  for (const mask of [0o000, 0o022, 0o077]) {
    const before = process.umask(mask)
    await open().finally(() => expect(umask()).toBe(mask))
    process.umask(before)
    expect(await modeOf(path)).toBe(0o600)
  }
})

test('a private socket takes the place of a file that is there', async () => {
  await writeFile(path, 'left behind')
  await open()
  expect((await stat(path)).isSocket()).toBe(true)
})

test('a private socket is gone when its last connection has ended', async () => {
  const { server, stop } = await open()
  const accepted = once(server, 'connection')
  createConnection(path)
  const [connection] = await accepted
  const stopped = stop()
  connection.destroy()
  await stopped
  await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a private socket that cannot be says so and leaves the umask alone', async () => {
  const before = umask()
  await expect(listenPrivately(createServer(), join(path, 'no', 'folder'))).rejects.toMatchObject({ code: 'CONFLICT' })
  expect(umask()).toBe(before)
})
