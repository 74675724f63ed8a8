import { errorCodes, payloadMaxBytes, settingIds } from './frames.ts'
import { tableMaxBytes } from './hpack.ts'
import { initialWindowBytes } from './stream.ts'

/** [RFC 9113 6.5.2] The settings of the other side that concern one which neither pushes nor compresses. */
export class PeerSettings {
  /** True once it has said any. */
  isKnown = false
  /** Streams that we may have open. */
  streamsMax = Number.POSITIVE_INFINITY
  /** What we may send on a new stream. */
  initialWindowBytes = initialWindowBytes
  /** True once it wanted a smaller table of headers than the first one. */
  isTableSmaller = false

  /** Takes the payload of SETTINGS; an error code of the connection for one that must not be. */
  read(payload: Buffer): number | undefined {
    if (payload.length % 6 !== 0) return errorCodes.frameSize
    for (let at = 0; at < payload.length; at += 6) {
      const value = payload.readUInt32BE(at + 2)
      const fault = this.#take(payload.readUInt16BE(at), value)
      if (fault !== undefined) return fault
    }
    this.isKnown = true
    return undefined
  }

  #take(id: number, value: number): number | undefined {
    if (id === settingIds.enablePush && value > 1) return errorCodes.protocol
    if (id === settingIds.maxFrame && (value < payloadMaxBytes || value >= 2 ** 24)) return errorCodes.protocol
    if (id === settingIds.headerTable && value < tableMaxBytes) this.isTableSmaller = true
    if (id === settingIds.maxStreams) this.streamsMax = value
    if (id !== settingIds.initialWindow) return undefined
    if (value >= 2 ** 31) return errorCodes.flowControl
    this.initialWindowBytes = value
    return undefined
  }
}
