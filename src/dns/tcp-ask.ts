import { connect } from 'node:net'
import type { UpstreamAddress } from './upstream-socket.ts'
import { read16 } from './wire.ts'

/**
 * Asks one question over TCP on a connection of its own [RFC 7766]; calls `done` once with the whole message, or undefined
 * when the connection failed. The result ends the attempt without calling back.
 */
export function askOverTcp(
  target: UpstreamAddress,
  message: Uint8Array,
  done: (reply: Buffer | undefined) => void,
): () => void {
  const socket = connect({
    host: target.address,
    port: target.port,
    ...(target.localAddress ? { localAddress: target.localAddress } : {}),
  })
  let received = Buffer.alloc(0)
  let over = false
  const finish = (reply: Buffer | undefined) => {
    if (over) return
    over = true
    socket.destroy()
    done(reply)
  }
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk])
    const length = received.length < 2 ? Number.POSITIVE_INFINITY : read16(received, 0)
    if (received.length < length + 2) return
    const reply = received.subarray(2, length + 2)
    finish(read16(reply, 0) === read16(message, 0) ? Buffer.from(reply) : undefined)
  })
  socket.on('error', () => finish(undefined))
  socket.on('close', () => finish(undefined))
  socket.end(framed(message))
  return () => {
    over = true
    socket.destroy()
  }
}

/** A message with its two length bytes in one buffer, for one write. [RFC 7766 8] */
export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(message.length + 2)
  frame.writeUInt16BE(message.length, 0)
  frame.set(message, 2)
  return frame
}
