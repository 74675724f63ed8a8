import { Duplex } from 'node:stream'
import { NsmError } from '../base/errors.ts'
import { type StackCommand, type StackNews, streamWindowBytes } from './stack-messages.ts'
import type { SocketAddress } from './wireguard/sockaddr.ts'

/** What a stream is made from. */
export interface TcpStreamParts {
  readonly socket: number
  readonly remote: SocketAddress
  /** Own port of a connection that was accepted; 0 for one that was opened from here. */
  readonly localPort: number
  readonly tell: (command: StackCommand) => void
  /** The stream is over. */
  readonly onClose: () => void
}

/**
 * A TCP connection through a tunnel, as a stream: half-closed by `end`, broken off by `destroy`, slow when its reader is. An
 * error is `UNREACHABLE` before it was open, `LOST` after.
 */
export class TcpStream extends Duplex {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly localPort: number
  readonly #parts: TcpStreamParts
  #isOpen = false
  #untaken = 0
  /** Written and not taken by the stack. */
  #written = 0
  #goOn: (() => void) | undefined

  constructor(parts: TcpStreamParts) {
    super({ allowHalfOpen: true, emitClose: true })
    this.#parts = parts
    this.remoteAddress = parts.remote.address
    this.remotePort = parts.remote.port
    this.localPort = parts.localPort
  }

  /** Takes what the socket says. */
  hear(news: StackNews): void {
    switch (news.news) {
      case 'connected':
      case 'accepted':
        this.#isOpen = true
        return void this.emit('connect')
      case 'data':
        return void this.#onData(news.bytes)
      case 'wrote':
        return void this.#onWrote(news.count)
      case 'ended':
        return void this.push(null)
      case 'refused':
      case 'reset':
      case 'lost':
        this.destroy(this.#failure(news.news))
    }
  }

  override _read(): void {
    if (this.#untaken > 0) this.#take(this.#untaken)
    this.#untaken = 0
  }

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    this.#send(Uint8Array.from(chunk), done)
  }

  override _writev(chunks: readonly { readonly chunk: Uint8Array }[], done: () => void): void {
    const all = Buffer.concat(chunks.map(({ chunk }) => chunk))
    this.#send(Uint8Array.from(all), done)
  }

  override _final(done: () => void): void {
    this.#parts.tell({ act: 'end', socket: this.#parts.socket })
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const isWhole = !error && this.readableEnded && this.writableFinished
    this.#parts.tell({ act: 'release', socket: this.#parts.socket, breaks: !isWhole })
    this.#parts.onClose()
    done(error)
  }

  #onData(bytes: Uint8Array): void {
    if (this.push(bytes)) this.#take(bytes.length)
    else this.#untaken += bytes.length
  }

  #take(count: number): void {
    this.#parts.tell({ act: 'taken', socket: this.#parts.socket, count })
  }

  #send(bytes: Uint8Array, done: () => void): void {
    if (bytes.length === 0) return void done()
    this.#written += bytes.length
    this.#parts.tell({ act: 'write', socket: this.#parts.socket, bytes })
    if (this.#written < streamWindowBytes) done()
    else this.#goOn = done
  }

  #onWrote(count: number): void {
    this.#written -= count
    if (this.#written >= streamWindowBytes) return
    const goOn = this.#goOn
    this.#goOn = undefined
    goOn?.()
  }

  #failure(why: 'refused' | 'reset' | 'lost'): NsmError {
    const { address, port } = this.#parts.remote
    const at = `${address} port ${port}`
    if (this.#isOpen) {
      const what = why === 'reset' ? 'was broken off by the other end' : 'is lost: the other end does not answer'
      return new NsmError('LOST', `the connection with ${at} ${what}`, 'connect again')
    }
    if (why === 'refused') {
      return new NsmError(
        'UNREACHABLE',
        `no connection to ${at} is possible from this tunnel`,
        'close others, or check the address',
      )
    }
    const what = why === 'reset' ? 'refuses connections' : 'does not answer'
    return new NsmError('UNREACHABLE', `${at} ${what}`, 'check the address and that something listens there')
  }
}
