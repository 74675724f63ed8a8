import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import packet from 'dns-packet'
import type { FakeClock } from './fake-clock.ts'

/** One reply, decoded by an independent codec, with its bytes. */
export interface ClientReply {
  readonly bytes: Buffer
  readonly id: number
  readonly rcode: string | undefined
  readonly flags: number
  readonly answers: readonly packet.Answer[]
  readonly authorities: readonly packet.Answer[]
  readonly opt: packet.OptAnswer | undefined
  readonly extendedError: number | undefined
}

/** A question's bytes from an independent encoder. */
export function questionBytes(
  name: string,
  parts: {
    readonly type?: packet.RecordType
    readonly id?: number
    readonly flags?: number
    readonly edns?: number
    readonly dnssecOk?: boolean
  } = {},
): Buffer {
  const opt: packet.OptAnswer = {
    type: 'OPT',
    name: '.',
    udpPayloadSize: parts.edns ?? 0,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: parts.dnssecOk ? 0x8000 : 0,
    flag_do: parts.dnssecOk ?? false,
    options: [],
  }
  return packet.encode({
    type: 'query',
    id: parts.id ?? 4711,
    flags: parts.flags ?? 0x100,
    questions: [{ type: parts.type ?? 'A', name, class: 'IN' }],
    ...(parts.edns === undefined ? {} : { additionals: [opt] }),
  })
}

/** Sends bytes over UDP and resolves with the first reply. */
export async function askUdp(port: number, bytes: Buffer, address = '127.0.0.1'): Promise<ClientReply> {
  const socket = createSocket('udp4')
  try {
    // Connected, it hears its server alone: a flood of forged replies that meets its port says nothing to it.
    socket.connect(port, address)
    await once(socket, 'connect')
    socket.send(bytes)
    const [message] = await once(socket, 'message')
    return readReply(message)
  } finally {
    socket.close()
  }
}

/** Sends all questions in one write over one TCP connection and resolves with as many replies, in the order they came. */
export async function askTcp(port: number, questions: readonly Buffer[]): Promise<ClientReply[]> {
  const socket = connect(port, '127.0.0.1')
  const frames = questions.map((bytes) => Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]))
  socket.end(Buffer.concat(frames))
  const chunks: Buffer[] = []
  socket.on('data', (chunk) => chunks.push(chunk))
  await once(socket, 'close')
  const replies: ClientReply[] = []
  let rest = Buffer.concat(chunks)
  while (rest.length >= 2) {
    const length = rest.readUInt16BE(0)
    replies.push(readReply(rest.subarray(2, length + 2)))
    rest = rest.subarray(length + 2)
  }
  return replies
}

/** Moves the clock in steps of 50 ms until the promise settles; gives its value and the time that went by. */
export async function advanceUntil<T>(clock: FakeClock, promise: Promise<T>): Promise<{ value: T; elapsedMs: number }> {
  const startMs = clock.monotonicMs()
  let settled = false
  const marked = promise.finally(() => {
    settled = true
  })
  while (!settled) {
    for (let i = 0; i < 5; i++) await turn()
    if (!settled) await clock.advance(50)
  }
  return { value: await marked, elapsedMs: clock.monotonicMs() - startMs }
}

/** Lets the event loop run until the condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}

function readReply(bytes: Buffer): ClientReply {
  const decoded = packet.decode(bytes)
  const opt = (decoded.additionals ?? []).find((record) => record.type === 'OPT')
  return {
    bytes,
    id: bytes.readUInt16BE(0),
    rcode: rcodes[bytes.readUInt16BE(2) & 15],
    flags: bytes.readUInt16BE(2),
    answers: decoded.answers ?? [],
    authorities: decoded.authorities ?? [],
    opt: opt?.type === 'OPT' ? opt : undefined,
    extendedError:
      opt && bytes.readUInt16BE(bytes.length - 6) === 15 ? bytes.readUInt16BE(bytes.length - 2) : undefined,
  }
}

const rcodes = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED']
