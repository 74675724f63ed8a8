import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { MessageChannel, Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { WorkerControl } from '../../src/tunnel/control.ts'

/** A control over a thread that runs `source`; counts the wakes. */
function start(source: string) {
  const { port1, port2 } = new MessageChannel()
  const worker = new Worker(source, { eval: true, workerData: { port: port2 }, transferList: [port2] })
  const wakes = { count: 0 }
  const wake = { fd: -1, wake: () => void wakes.count++, close: () => {} }
  const locals: Uint8Array[] = []
  const control = new WorkerControl({ worker, port: port1, wake })
  control.onLocal = (packet) => void locals.push(packet)
  return { control, wakes, locals }
}

const prelude = `const { port } = require('node:worker_threads').workerData; const say = (m) => port.postMessage(m);`
/** Answers everything but handshakes; ends at close. */
const obedient = `${prelude} say({ kind: 'ready' }); port.on('message', ({ id, request }) => {
  if (request.kind === 'stats') say({ kind: 'answer', id, stats: { peers: [], counters: { seen: id } } })
  else if (request.kind === 'removePeer') say({ kind: 'answer', id, error: { code: 'REFUSED', message: 'no', next: 'stop' } })
  else if (request.kind === 'sendLocal') say({ kind: 'local', packet: request.packet })
  if (request.kind === 'close') port.close() })`

describe('WorkerControl', () => {
  test('an answer reaches the request with its number, and each request wakes the thread', async () => {
    const { control, wakes } = start(obedient)
    await control.ready
    const answers = await Promise.all([control.ask({ kind: 'stats' }), control.ask({ kind: 'stats' })])
    expect(answers.map((stats) => stats?.counters['seen'])).toEqual([1, 2])
    expect(wakes.count).toBe(2)
    await control.close()
  })

  test('an error that was answered is thrown with its code', async () => {
    const { control } = start(obedient)
    const refused = control.ask({ kind: 'removePeer', publicKey: new Uint8Array() })
    await expect(refused).rejects.toMatchObject({ code: 'REFUSED', message: 'no', next: 'stop' })
    await control.close()
  })

  test('a local packet is handed out', async () => {
    const { control, locals } = start(obedient)
    control.tell({ kind: 'sendLocal', packet: Uint8Array.of(1, 2) })
    await control.ask({ kind: 'stats' })
    expect(locals).toEqual([Uint8Array.of(1, 2)])
    await control.close()
  })

  test('an abort ends the wait with its reason', async () => {
    const { control } = start(obedient)
    const controller = new AbortController()
    const handshake = control.ask({ kind: 'handshake', publicKey: new Uint8Array() }, controller.signal)
    controller.abort(new Error('too late'))
    await expect(handshake).rejects.toThrow('too late')
    await control.close()
  })

  test.each([
    ['ends', `${prelude} say({ kind: 'ready' }); process.exit(3)`, 'the packet worker ended'],
    ['throws', `${prelude} say({ kind: 'ready' }); throw new TypeError('oops')`, 'oops'],
    [
      'says why',
      `${prelude} say({ kind: 'failed', error: { code: 'LOST', message: 'interface gone', next: '' } }); port.close()`,
      'interface gone',
    ],
  ])('a thread that %s by itself is LOST, for the waiting and for later requests', async (_how, source, message) => {
    const { control } = start(source)
    const waiting = control.ask({ kind: 'stats' })
    await expect(waiting).rejects.toMatchObject({ code: 'LOST' })
    expect(await control.failed).toMatchObject({ code: 'LOST', message: expect.stringContaining(message) })
    await expect(control.ask({ kind: 'stats' })).rejects.toMatchObject({ code: 'LOST' })
    await control.close()
  })

  test('a thread that fails before it is ready rejects ready', async () => {
    const { control } = start(`${prelude} throw new TypeError('no module')`)
    await expect(control.ready).rejects.toMatchObject({ code: 'LOST', message: expect.stringContaining('no module') })
  })
})

test.skipIf(process.platform !== 'linux')(
  'a process that ends with an open hub ends at once (needs Linux)',
  async () => {
    const source = (file: string) => JSON.stringify(join(import.meta.dirname, '../../src/tunnel', file))
    const script = `import { openHub } from ${source('hub.ts')}; import { generatePrivateKey } from ${source('wireguard/keys.ts')}
    await openHub({ privateKey: generatePrivateKey(), listenAddress: '::', listenPort: 0, gateways: [], localUdpPorts: [], onLocalPacket() {} })
    process.exit(7)`
    const child = promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 })
    await expect(child).rejects.toMatchObject({ code: 7 })
  },
)
