import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { UapiDevice } from '../../src/tunnel/device-control.ts'
import { openUapi, removeLeftSocket, type UapiServer } from '../../src/tunnel/uapi-server.ts'

let dir = ''
let server: UapiServer | undefined
const received: (readonly string[])[] = []

const device: UapiDevice = {
  get: async () => ['listen_port=1'],
  set: async (lines) => {
    received.push(lines)
    if (lines[0] === 'fail') throw new Error('broken')
    return lines[0] === 'bad' ? 22 : 0
  },
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-uapi-'))
  received.length = 0
})
afterEach(async () => {
  await server?.close()
  server = undefined
  rmSync(dir, { recursive: true, force: true })
})

async function open(): Promise<string> {
  server = await openUapi('wg7', device, dir)
  return server.path
}

/** Writes the parts and gives all that comes back until the server or we end. */
async function ask(path: string, ...parts: string[]): Promise<string> {
  const socket = createConnection(path)
  socket.on('error', () => {})
  let answer = ''
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()))
  socket.on('data', (data) => {
    answer += String(data)
  })
  for (const part of parts) {
    socket.write(part)
    await new Promise(setImmediate)
  }
  socket.end()
  await closed
  return answer
}

describe('openUapi', () => {
  test('answers get, set and errors as wg(8) reads them', async () => {
    const path = await open()
    expect(await ask(path, 'get=1\n\n')).toBe('listen_port=1\nerrno=0\n\n')
    expect(await ask(path, 'set=1\nlisten_port=2\nfwmark=0\n\n')).toBe('errno=0\n\n')
    expect(await ask(path, 'set=1\nbad\n\n')).toBe('errno=-22\n\n')
    expect(received).toEqual([['listen_port=2', 'fwmark=0'], ['bad']])
  })

  test.each([
    ['another operation', 'del=1\n\n', 'errno=-22\n\n'],
    ['get with lines', 'get=1\nx=1\n\n', 'errno=-22\n\n'],
    ['a device that throws', 'set=1\nfail\n\n', 'errno=-5\n\n'],
    ['nothing', '\n\n', 'errno=-22\n\n'],
  ])('answers %s with an error and goes on', async (_what, request, answer) => {
    const path = await open()
    expect(await ask(path, request, 'get=1\n\n')).toBe(`${answer}listen_port=1\nerrno=0\n\n`)
  })

  test('reads requests in pieces and several at once, and answers in order', async () => {
    const path = await open()
    expect(await ask(path, 'se', 't=1\nba', 'd\n', '\nget=1\n\nset=1\n\n')).toBe(
      'errno=-22\n\nlisten_port=1\nerrno=0\n\nerrno=0\n\n',
    )
  })

  test('is open to its user only, in a folder that others may not write', async () => {
    const path = await open()
    expect(statSync(path).mode & 0o777).toBe(0o600)
    await server?.close()
    chmodSync(dir, 0o777)
    await expect(openUapi('wg7', device, dir)).rejects.toMatchObject({ code: 'PERMISSION' })
    writeFileSync(join(dir, 'file'), '')
    await expect(openUapi('wg7', device, join(dir, 'file', 'below'))).rejects.toMatchObject({ code: 'PERMISSION' })
  })

  test('replaces what a killed program left, and is CONFLICT beside a living one', async () => {
    writeFileSync(join(dir, 'wg7.sock'), '')
    const path = await open()
    await expect(openUapi('wg7', device, dir)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect(await ask(path, 'get=1\n\n')).toContain('errno=0')
  })

  test('ends a caller that sends no end of a request', async () => {
    const path = await open()
    const socket = createConnection(path)
    socket.on('error', () => {})
    const closed = new Promise((resolve) => socket.on('close', resolve))
    socket.write(`set=1\n${'x=1\n'.repeat(1_100_000)}`)
    await closed
    expect(received).toEqual([])
    expect(await ask(path, 'get=1\n\n')).toContain('errno=0')
  })

  test('serves 16 callers at once and no more', async () => {
    const path = await open()
    const callers = Array.from({ length: 16 }, () => createConnection(path))
    await Promise.all(callers.map((caller) => once(caller, 'connect')))
    const last = callers[15] ?? createConnection(path)
    last.write('get=1\n\n')
    await once(last, 'data')
    expect(await ask(path, 'get=1\n\n')).toBe('')
    for (const caller of callers) caller.destroy()
    await expect.poll(() => ask(path, 'get=1\n\n')).toContain('errno=0')
  })

  test('removes its socket and ends its callers', async () => {
    const path = await open()
    const caller = createConnection(path)
    await once(caller, 'connect')
    const closed = once(caller, 'close')
    await server?.close()
    await closed
    expect(existsSync(path)).toBe(false)
  })
})

describe('removeLeftSocket', () => {
  test('removes the socket of a killed program and gives its path', async () => {
    const path = join(dir, 'wg7.sock')
    const listen = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
    expect(spawnSync(process.execPath, ['-e', listen]).signal).toBe('SIGKILL')
    expect(existsSync(path)).toBe(true)
    expect(await removeLeftSocket('wg7', dir)).toBe(path)
    expect(existsSync(path)).toBe(false)
    expect(await removeLeftSocket('wg7', dir)).toBeUndefined()
  })

  test('leaves one that answers, what is no socket, and what lies elsewhere', async () => {
    const path = await open()
    expect(await removeLeftSocket('wg7', dir)).toBeUndefined()
    expect(await removeLeftSocket(`../${basename(dir)}/wg7`, dir)).toBeUndefined()
    expect(await ask(path, 'get=1\n\n')).toContain('errno=0')
    writeFileSync(join(dir, 'wg8.sock'), '')
    expect(await removeLeftSocket('wg8', dir)).toBeUndefined()
    expect(existsSync(join(dir, 'wg8.sock'))).toBe(true)
  })
})
