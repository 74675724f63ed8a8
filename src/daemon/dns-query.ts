import { type Clock, keepingClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { buildQuestion } from '../dns/build-question.ts'
import { askServer } from '../dns/client.ts'
import { messageText } from '../dns/message-text.ts'
import { typeFromText, typeText } from '../dns/type-names.ts'
import { targetText } from '../dns/upstream-socket.ts'
import type { DnsQuery, DnsQueryResult } from './dns-protocol.ts'

/** Asks a resolver as any program would; throws `UNREACHABLE` when it is silent, `USAGE` for a name or type that is none. */
export async function queryDns(
  query: DnsQuery,
  signal: AbortSignal,
  clock: Clock = keepingClock,
): Promise<DnsQueryResult> {
  const { server, name, overTcp } = query
  const type = typeFromText(query.type)
  const message = buildQuestion({ name, type, id: 0, edns: true })
  const startMs = clock.monotonicMs()
  const answered = await askServer({ target: server, message, overTcp, clock }, signal)
  const tookMs = Math.round((clock.monotonicMs() - startMs) * 100) / 100
  const text = messageText(answered.reply)
  if (!text)
    throw new NsmError('REFUSED', `${targetText(server)} sent a reply that cannot be read`, 'ask another server')
  return {
    apiVersion: 'nsm/dns-query/v1',
    server: targetText(server),
    name,
    type: typeText(type),
    overTcp: answered.overTcp,
    ...text,
    tookMs,
    bytes: answered.reply.length,
  }
}
