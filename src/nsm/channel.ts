import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { IdentitySource, TrustBundles } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { createClientSecurity } from '../identity/tls-client.ts'
import { verifyPeer } from '../identity/verify.ts'
import type { Answer, CallSettings, Target } from './call-settings.ts'
import { createLine, type Line } from './line.ts'
import { callDuplex, callStream, callUnary } from './line-calls.ts'
import type { DuplexMethod, StreamMethod, UnaryMethod } from './service-definition.ts'

/* A channel is one server and one identity. Below it are lines, each with one SVID: servers check hop tokens with the
 * certificate of the TLS connection, so a new SVID means a new line. Calls that are open finish on theirs. */

/** Calls to one server. Every call throws `NsmError` only, or the reason of its signal. */
export interface Channel {
  readonly clock: Clock
  /** The SPIFFE ID the next call presents; undefined for an anonymous channel. */
  ownId(): string | undefined
  unary<I extends DescMessage, O extends DescMessage>(
    method: UnaryMethod<I, O>,
    request: MessageInitShape<I>,
    settings?: CallSettings,
  ): Promise<Answer<MessageShape<O>>>
  /** Has no deadline; leaving the loop cancels the call. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: StreamMethod<I, O>,
    request: MessageInitShape<I>,
    settings?: CallSettings,
  ): AsyncGenerator<MessageShape<O>, void>
  /** As `stream`, with requests that are sent as the iterable gives them; its end ends our half only. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DuplexMethod<I, O>,
    requests: AsyncIterable<MessageInitShape<I>>,
    settings?: CallSettings,
  ): AsyncGenerator<MessageShape<O>, void>
  /** Makes a new connection for the next call; calls under way stay on theirs. */
  redial(): void
  /** Ends every call; calling it again does nothing more. */
  close(): void
}

export type { Answer, CallSettings, Target } from './call-settings.ts'

/** A channel with mutual TLS and hop tokens on each call; it dials at the first call and anew when the SVID changes. */
export function openChannel(settings: {
  readonly target: Target
  readonly source: IdentitySource
  readonly clock: Clock
  readonly expect?: (spiffeId: string) => boolean
  /** The longest life of the tokens of its calls. */
  readonly tokenLifetimeMs?: number | undefined
}): Channel {
  const { target, source, clock, expect, tokenLifetimeMs } = settings
  const secure = () => createClientSecurity({ as: { source }, clock, ...(expect ? { expect } : {}) })
  const open = () => createLine({ target, clock, tokenLifetimeMs, security: secure() })
  const lines = createLines(open, clock)
  const stopFollowing = source.onChange(({ bundles }) => {
    lines.renew()
    lines.drop((line) => timeLeftMs(line, bundles, clock))
  })
  return createChannel(lines, {
    clock,
    ownId: () => source.current().svid.spiffeId,
    onClose: stopFollowing,
  })
}

/** A channel without an identity: only the methods that are open to everybody answer it. */
export function openAnonymousChannel(settings: {
  readonly target: Target
  readonly bundles: TrustBundles
  readonly clock: Clock
}): Channel {
  const { target, bundles, clock } = settings
  const security = () => createClientSecurity({ as: { bundles }, clock })
  const lines = createLines(() => createLine({ target, clock, security: security() }), clock)
  return createChannel(lines, { clock, ownId: () => undefined, onClose() {} })
}

/** The lines of one channel: the one for new calls, and older ones until their last call ends. */
interface Lines {
  /** Borrows the line for one call. */
  take(): Line
  give(line: Line): void
  renew(): void
  /** Ends older lines and the calls on them, each when the time left to it is over; undefined: none is set. */
  drop(leftMsOf: (line: Line) => number | undefined): void
  close(): void
}

/**
 * A server that lost its trust keeps no call. When its domain left, they end at once; when only its root is gone, the line
 * may be older than its new certificate, and calls under way end by themselves.
 */
function timeLeftMs(line: Line, bundles: TrustBundles, clock: Clock): number | undefined {
  const server = line.server()
  if (!server) return undefined
  try {
    verifyPeer({ chain: [server.certificate, ...server.intermediates], bundles, nowMs: clock.wallMs() })
    return undefined
  } catch {
    return bundles.get(parseSpiffeId(server.spiffeId).trustDomain)?.length ? replacedMs : 0
  }
}

/** Ours: the deadline of a call where none is set, so that only streams are cut. */
const replacedMs = 15_000

function createLines(open: () => Line, clock: Clock): Lines {
  const calls = new Map<Line, number>()
  let current: Line | undefined
  let closed = false
  const timers = new Map<Line, () => void>()
  const end = (line: Line) => {
    timers.get(line)?.()
    timers.delete(line)
    calls.delete(line)
    line.close()
  }
  const endLater = (line: Line, delayMs: number) => {
    if (timers.has(line)) return
    const cancel = clock.after(delayMs, () => end(line))
    timers.set(line, cancel)
  }
  const closeIfIdle = (line: Line) => {
    if (line !== current && calls.get(line) === 0) end(line)
  }
  return {
    take() {
      if (closed) throw new NsmError('UNREACHABLE', 'the channel is closed', 'open a new one')
      current ??= open()
      calls.set(current, (calls.get(current) ?? 0) + 1)
      return current
    },
    give(line) {
      if (!calls.has(line)) return
      calls.set(line, (calls.get(line) ?? 1) - 1)
      closeIfIdle(line)
    },
    renew() {
      const old = current
      current = undefined
      if (old) closeIfIdle(old)
    },
    drop(leftMsOf) {
      for (const line of [...calls.keys()]) {
        const leftMs = line === current ? undefined : leftMsOf(line)
        if (leftMs === 0) end(line)
        else if (leftMs !== undefined) endLater(line, leftMs)
      }
    },
    close() {
      closed = true
      for (const line of [...calls.keys()]) end(line)
      current = undefined
    },
  }
}

interface ChannelParts {
  readonly clock: Clock
  readonly ownId: () => string | undefined
  readonly onClose: () => void
}

function createChannel(lines: Lines, parts: ChannelParts): Channel {
  return {
    clock: parts.clock,
    ownId: parts.ownId,
    async unary(method, request, settings = {}) {
      const line = lines.take()
      try {
        const { server, ...answer } = await callUnary(line, { method, request, settings })
        if (!server) throw noServer()
        return { ...answer, server }
      } finally {
        lines.give(line)
      }
    },
    async *stream(method, request, settings = {}) {
      const line = lines.take()
      try {
        yield* callStream(line, { method, request, settings })
      } finally {
        lines.give(line)
      }
    },
    async *duplex(method, requests, settings = {}) {
      const line = lines.take()
      try {
        yield* callDuplex(line, { method, requests, settings })
      } finally {
        lines.give(line)
      }
    },
    redial: () => lines.renew(),
    close() {
      parts.onClose()
      lines.close()
    },
  }
}

function noServer(): NsmError {
  return new NsmError('BUG', 'a call was answered on a connection that shows no server', 'report it')
}
