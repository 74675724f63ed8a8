import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { MessageChannel, Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import type { WorkerStart } from '../../src/tunnel/control.ts'
import { answerLimitMs, forcedEndMs, politeEndMs, startLimitMs, WorkerControl } from '../../src/tunnel/control.ts'
import { ThreadBoot } from '../../src/tunnel/thread-boot.ts'
import { createFakeClock } from '../support/fake-clock.ts'

/** A control over a thread that runs `source`; counts the wakes. */
function start(source: string) {
  const { port1, port2 } = new MessageChannel()
  const worker = new Worker(source, { eval: true, workerData: { port: port2 }, transferList: [port2] })
  const wakes = { count: 0 }
  const wake = { fd: -1, wake: () => void wakes.count++, close: () => {} }
  const locals: Uint8Array[] = []
  const clock = createFakeClock()
  const boot = new ThreadBoot()
  const control = new WorkerControl({ worker, port: port1, wake, boot, clock })
  control.onLocal = (packet) => void locals.push(packet)
  return { control, wakes, locals, clock, worker, boot }
}

const anyStart: WorkerStart = { kind: 'hub', privateKey: new Uint8Array(32), udp: { fd: -1 } }

const prelude = `const { port } = require('node:worker_threads').workerData; const say = (m) => port.postMessage(m);`
/** Answers everything but handshakes; ends at close. */
const obedient = `${prelude} say({ kind: 'ready' }); port.on('message', ({ id, request }) => {
  if (request.kind === 'stats') say({ kind: 'answer', id, stats: { peers: [], counters: { seen: id } } })
  else if (request.kind === 'removePeer') say({ kind: 'answer', id, error: { code: 'REFUSED', message: 'no', next: 'stop' } })
  else if (request.kind === 'sendLocal') say({ kind: 'local', packet: request.packet })
  if (request.kind === 'close') port.close() })`

describe('WorkerControl', () => {
  test('an answer reaches the request with its number, and requests of one turn of the event loop share a wake', async () => {
    const { control, wakes } = start(obedient)
    await control.ready
    const answers = await Promise.all([control.ask({ kind: 'stats' }), control.ask({ kind: 'stats' })])
    expect(answers.map((stats) => stats?.counters['seen'])).toEqual([1, 2])
    await new Promise(setImmediate)
    expect(wakes.count).toBe(1)
    await control.ask({ kind: 'stats' })
    await new Promise(setImmediate)
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

  test('a thread that never gets ready is LOST after the limit, and close ends it', async () => {
    const { control, clock, boot } = start(`${prelude} for (;;) {}`)
    boot.tellLoaded()
    const started = control.start(anyStart)
    started.catch(() => {})
    await clock.advance(startLimitMs - 1)
    await expect(Promise.race([started, 'waiting'])).resolves.toBe('waiting')
    await clock.advance(1)
    await expect(started).rejects.toMatchObject({ code: 'LOST', message: expect.stringContaining('did not start') })
    const closed = control.close()
    await clock.advance(politeEndMs)
    await closed
    expect(clock.waiting).toBe(0)
  })

  test('an abort ends the wait for a thread that never gets ready', async () => {
    const { control, clock } = start(`${prelude} port.on('message', ({ request }) => request && port.close())`)
    const controller = new AbortController()
    const started = control.start(anyStart, controller.signal)
    controller.abort(new Error('too late'))
    await expect(started).rejects.toThrow('too late')
    expect(clock.waiting).toBe(0)
    await control.close()
  })

  test('a thread that does not answer is LOST for every request but a handshake, which has its signal', async () => {
    const { control, clock, boot } = start(`${prelude} say({ kind: 'ready' }); for (;;) {}`)
    boot.tellLoaded()
    await control.start(anyStart)
    const handshake = control.ask({ kind: 'handshake', publicKey: new Uint8Array() }, AbortSignal.timeout(60_000))
    handshake.catch(() => {})
    const stats = control.ask({ kind: 'stats' })
    stats.catch(() => {})
    await clock.advance(answerLimitMs)
    await expect(stats).rejects.toMatchObject({ code: 'LOST', message: 'the packet worker does not answer' })
    await expect(Promise.race([handshake, 'waiting'])).resolves.toBe('waiting')
    const closed = control.close()
    await clock.advance(politeEndMs)
    await closed
    await expect(handshake).rejects.toMatchObject({ code: 'NOT_READY' })
    await expect(control.ask({ kind: 'stats' })).rejects.toMatchObject({ code: 'NOT_READY' })
  })

  test('close resolves within its limits also when the thread cannot be ended', async () => {
    const { control, clock, worker, boot } = start(`${prelude} for (;;) {}`)
    boot.tellLoaded()
    const done: string[] = []
    const terminate = worker.terminate.bind(worker)
    worker.unref = () => void done.push('unref')
    worker.terminate = () => {
      done.push('terminate')
      return new Promise(() => {})
    }
    const waiting = control.ask({ kind: 'stats' })
    waiting.catch(() => {})
    const [first, second] = [control.close(), control.close()]
    await clock.advance(politeEndMs)
    expect(done).toEqual(['terminate'])
    await clock.advance(forcedEndMs)
    await Promise.all([first, second])
    expect(done).toEqual(['terminate', 'unref'])
    await expect(waiting).rejects.toMatchObject({ code: 'NOT_READY' })
    await terminate()
  })

  test('a thread that still loads is never ended by force: it is left alone, and sees that nobody wants it', async () => {
    const { control, clock, worker, boot } = start(`${prelude} port.on('message', () => {})`)
    const done: string[] = []
    const unref = worker.unref.bind(worker)
    worker.unref = () => {
      done.push('unref')
      unref()
    }
    worker.terminate = async () => done.push('terminate')
    expect(boot.isDismissed).toBe(false)
    const closed = control.close()
    expect(boot.isDismissed).toBe(true)
    await clock.advance(politeEndMs + forcedEndMs)
    await closed
    expect(done).toEqual(['unref'])
  })

  test('a request that nobody waits for is no longer sent to a thread that is gone', async () => {
    const { control, wakes } = start(`${prelude} say({ kind: 'ready' }); process.exit(3)`)
    await control.failed
    control.tell({ kind: 'sendLocal', packet: Uint8Array.of(1) })
    expect(wakes.count).toBe(0)
    expect(control.ended).toBe(true)
  })

  test('a thread that fails before it is ready rejects ready', async () => {
    const { control } = start(`${prelude} throw new TypeError('no module')`)
    await expect(control.ready).rejects.toMatchObject({ code: 'LOST', message: expect.stringContaining('no module') })
  })
})

/** Runs a script on this Node to its end. */
function runToEnd(script: string) {
  return promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { timeout: 120_000 })
}

const source = (file: string) => JSON.stringify(join(import.meta.dirname, '../../src', file))

test('a process that ends while a thread loads waits for it: cut off there, Node would abort', async () => {
  const loads = `const { workerData, parentPort } = require('node:worker_threads'); parentPort.postMessage('loads')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
    require('node:fs').writeSync(1, 'loaded'); Atomics.store(workerData, 0, 1); Atomics.notify(workerData, 0)`
  const script = `import { MessageChannel, Worker } from 'node:worker_threads'; import { systemClock } from ${source('base/clock.ts')}
    import { WorkerControl } from ${source('tunnel/control.ts')}; import { ThreadBoot } from ${source('tunnel/thread-boot.ts')}
    const boot = new ThreadBoot()
    const worker = new Worker(${JSON.stringify(loads)}, { eval: true, workerData: boot.words, execArgv: [] })
    const wake = { fd: -1, wake() {}, close() {} }
    new WorkerControl({ worker, port: new MessageChannel().port1, wake, boot, clock: systemClock })
    worker.once('message', () => process.exit(7))`
  await expect(runToEnd(script)).rejects.toMatchObject({ code: 7, stdout: 'loaded' })
})

test.skipIf(process.platform !== 'linux')(
  'a process that ends with an open hub ends at once (needs Linux)',
  async () => {
    const script = `import { openHub } from ${source('tunnel/hub.ts')}; import { generatePrivateKey } from ${source('tunnel/wireguard/keys.ts')}
    await openHub({ privateKey: generatePrivateKey(), listenAddress: '::', listenPort: 0, gateways: [], localUdpPorts: [], onLocalPacket() {} })
    process.exit(7)`
    await expect(runToEnd(script)).rejects.toMatchObject({ code: 7 })
  },
)
