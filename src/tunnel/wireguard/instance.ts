import { randomFillSync } from 'node:crypto'
import { NsmError } from '../../base/errors.ts'

/** What the module exports; see wasm/engine/src/abi.rs. Pointers are byte offsets in `memory`. */
export interface EngineExports {
  readonly memory: WebAssembly.Memory
  readonly __indirect_function_table: WebAssembly.Table
  key_space(): number
  init(kind: number, peersMax: number, key: number): number
  add_peer(preshared: number): number
  set_peer(peer: number, keepaliveSeconds: number, mtuBytes: number, prefixes: number): number
  remove_peer(peer: number): void
  peer_of(): number
  set_gateways(count: number, ports: number): void
  set_merging(tcp: number, udp: number): void
  set_mtu(bytes: number): void
  handshake(peer: number, nowMs: number): void
  from_network(count: number, nowMs: number): void
  from_device(count: number, nowMs: number): void
  from_local(bytes: number, nowMs: number): void
  drain(nowMs: number): void
  tick(nowMs: number): void
  stats(peer: number): number
  stack_listen(port: number, listens: number): void
  stack_connect(nowMs: number): number
  stack_udp(port: number): number
  stack_echo(): number
  stack_port(socket: number): number
  stack_send(socket: number, bytes: number, nowMs: number): number
  stack_receive(socket: number, most: number, nowMs: number): number
  stack_send_to(socket: number, bytes: number, nowMs: number): number
  stack_receive_from(socket: number): number
  stack_end(socket: number, nowMs: number): void
  stack_release(socket: number, breaks: number, nowMs: number): void
  stack_events(): number
  set_kernels(rounds8: number, poly8: number): void
  aead_seal(additionalBytes: number, textBytes: number): void
  aead_open(additionalBytes: number, textBytes: number): number
}

/** Milliseconds since the engine's first call; set before each call, read when the module asks for the time. */
export interface EngineTime {
  sinceFirstMs: number
}

/** [WASI preview 1] errno: success, bad file descriptor. */
const done = 0
const badFile = 8

/** The engine, and the module of its cipher's loops that this machine runs faster, if there is one. */
export interface EngineCode {
  readonly module: WebAssembly.Module
  readonly wideCipher?: WebAssembly.Module | undefined
}

/** Starts one instance of the engine with the few system calls that it needs; a trap later becomes `BUG`. */
export function instantiate(code: EngineCode, time: EngineTime): EngineExports {
  const host = createHost(time)
  const instance = new WebAssembly.Instance(code.module, { wasi_snapshot_preview1: host.calls })
  // WebAssembly's own types know no signatures; a test compares the names with the module's exports.
  const exports = instance.exports as unknown as EngineExports
  host.attach(exports.memory)
  if (code.wideCipher) replaceKernels(exports, code.wideCipher)
  return guarded(exports, host.panicText)
}

function replaceKernels(exports: EngineExports, wideCipher: WebAssembly.Module): void {
  const { rounds8, poly8 } = new WebAssembly.Instance(wideCipher, { env: { memory: exports.memory } }).exports
  const table = exports.__indirect_function_table
  const first = table.grow(2)
  table.set(first, rounds8)
  table.set(first + 1, poly8)
  exports.set_kernels(first, first + 1)
}

/** The system calls behind Rust's standard library: randomness, the time, the text of a panic. */
function createHost(time: EngineTime) {
  const createdMs = performance.timeOrigin + performance.now()
  let buffer = new ArrayBuffer(0)
  let panic = ''
  const view = () => new DataView(buffer)
  const calls = {
    /* The engine's own time on top of its creation, so that TAI64N stamps never go back [WG 5.1]. */
    clock_time_get(_clock: number, _precision: bigint, out: number) {
      view().setBigUint64(out, BigInt(Math.round((createdMs + time.sinceFirstMs) * 1e3)) * 1000n, true)
      return done
    },
    random_get(at: number, length: number) {
      randomFillSync(new Uint8Array(buffer, at, length))
      return done
    },
    fd_write(_file: number, vectors: number, count: number, out: number) {
      const written = readVectors(view(), vectors, count)
      panic += written
      view().setUint32(out, written.length, true)
      return done
    },
    environ_sizes_get(count: number, bytes: number) {
      view().setUint32(count, 0, true)
      view().setUint32(bytes, 0, true)
      return done
    },
    environ_get: () => done,
    sched_yield: () => done,
    fd_close: () => badFile,
    fd_seek: () => badFile,
    fd_prestat_get: () => badFile,
    fd_prestat_dir_name: () => badFile,
    proc_exit() {
      throw new NsmError('BUG', 'the WireGuard engine ended itself', 'restart the connection and report this')
    },
  }
  return {
    calls,
    attach(memory: WebAssembly.Memory) {
      buffer = memory.buffer
    },
    panicText: () => panic.trim(),
  }
}

function readVectors(view: DataView<ArrayBuffer>, vectors: number, count: number): string {
  let text = ''
  for (let i = 0; i < count; i++) {
    const at = view.getUint32(vectors + 8 * i, true)
    text += Buffer.from(view.buffer, at, view.getUint32(vectors + 8 * i + 4, true)).toString('latin1')
  }
  return text
}

/** A trapped instance is in an unknown state: the error says so, and every later call throws it again. */
function guarded(exports: EngineExports, panicText: () => string): EngineExports {
  let failure: NsmError | undefined
  const guard = <Arguments extends number[], Result>(call: (...values: Arguments) => Result) => {
    return (...values: Arguments): Result => {
      if (failure) throw failure
      try {
        return call(...values)
      } catch (cause) {
        const message = `the WireGuard engine failed: ${panicText() || String(cause)}`
        failure = new NsmError('BUG', message, 'restart the connection and report this', { cause })
        throw failure
      }
    }
  }
  return {
    memory: exports.memory,
    __indirect_function_table: exports.__indirect_function_table,
    key_space: guard(exports.key_space),
    init: guard(exports.init),
    add_peer: guard(exports.add_peer),
    set_peer: guard(exports.set_peer),
    remove_peer: guard(exports.remove_peer),
    peer_of: guard(exports.peer_of),
    set_gateways: guard(exports.set_gateways),
    set_merging: guard(exports.set_merging),
    set_mtu: guard(exports.set_mtu),
    handshake: guard(exports.handshake),
    from_network: guard(exports.from_network),
    from_device: guard(exports.from_device),
    from_local: guard(exports.from_local),
    drain: guard(exports.drain),
    tick: guard(exports.tick),
    stats: guard(exports.stats),
    stack_listen: guard(exports.stack_listen),
    stack_connect: guard(exports.stack_connect),
    stack_udp: guard(exports.stack_udp),
    stack_echo: guard(exports.stack_echo),
    stack_port: guard(exports.stack_port),
    stack_send: guard(exports.stack_send),
    stack_receive: guard(exports.stack_receive),
    stack_send_to: guard(exports.stack_send_to),
    stack_receive_from: guard(exports.stack_receive_from),
    stack_end: guard(exports.stack_end),
    stack_release: guard(exports.stack_release),
    stack_events: guard(exports.stack_events),
    set_kernels: guard(exports.set_kernels),
    aead_seal: guard(exports.aead_seal),
    aead_open: guard(exports.aead_open),
  }
}
