import { MessageChannel } from 'node:worker_threads'
import { systemClock } from '../base/clock.ts'
import { type Cipher, type WorkerBoot, WorkerControl, type WorkerStart } from './control.ts'
import { startWorkerThread } from './sys/native.ts'
import { ThreadBoot } from './thread-boot.ts'
import { loadPlatform } from './tun/open.ts'
import { loadEngineModule } from './wireguard/engine.ts'

/** What a packet worker is started with; the descriptors stay the caller's to close after the worker's end. */
export interface PacketWorkerSettings extends WorkerStart {
  readonly onLocal?: (packet: Uint8Array) => void
}

/** A packet worker. */
export interface PacketWorker {
  readonly control: WorkerControl
  /** Ends the thread; idempotent. */
  close(): Promise<void>
}

/** Boots a thread ahead of the tunnel that will need it: some 200 ms less to wait then. One is kept at most. */
export async function preparePacketWorker(): Promise<void> {
  const known = spare
  if (await aliveOf(known)) return
  if (spare === known) spare = bootWorker()
  await spare
}

/** Starts a worker with its engine and resolves when packets can flow. */
export async function startPacketWorker(settings: PacketWorkerSettings, signal?: AbortSignal): Promise<PacketWorker> {
  const taken = spare
  spare = undefined
  const { control, close } = (await aliveOf(taken)) ?? (await bootWorker())
  const { onLocal, ...start } = settings
  control.onLocal = onLocal
  try {
    signal?.throwIfAborted()
    // A copy of its own: what shares memory with it, as in a pooled Buffer, would cross as well.
    await control.start({ ...start, privateKey: Uint8Array.from(settings.privateKey) }, signal)
    cipher = await control.ready
  } catch (error) {
    await close()
    throw error
  }
  return { control, close }
}

/** Nothing for a thread that ended before anybody needed it. */
async function aliveOf(booted: Promise<PacketWorker> | undefined): Promise<PacketWorker | undefined> {
  const worker = await booted?.catch(() => undefined)
  return worker?.control.ended ? undefined : worker
}

async function bootWorker(): Promise<PacketWorker> {
  const platform = await loadPlatform()
  module ??= loadEngineModule()
  const compiled = await module
  const wake = platform.openWake()
  const { port1, port2 } = new MessageChannel()
  const boot = new ThreadBoot()
  const workerData: WorkerBoot = { module: compiled, wakeFd: wake.fd, port: port2, bootWords: boot.words, cipher }
  const worker = startWorkerThread({ name: 'packets', workerData, transferList: [port2], resourceLimits })
  const control = new WorkerControl({ worker, port: port1, wake, boot, clock: systemClock })
  worker.unref()
  port1.unref()
  let closed: Promise<void> | undefined
  const close = () => {
    closed ??= control.close().finally(() => wake.close())
    return closed
  }
  return { control, close }
}

/** A booted thread that nobody uses yet; it does not keep the process alive. */
let spare: Promise<PacketWorker> | undefined

/** Compiled once per process; every worker shares the machine code. */
let module: Promise<WebAssembly.Module> | undefined

/** What a worker of this process has found right. */
let cipher: Cipher | undefined

/** Ours: the loop makes almost no garbage; packets are in the engine's memory, which these limits do not count. */
const resourceLimits = { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 2, stackSizeMb: 2 }
