import { create, toBinary } from '@bufbuild/protobuf'
import { onTestFinished } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import type { CallSettings } from '../../src/nsm/call-settings.ts'
import { Health, HealthCheckResponseSchema } from '../../src/nsm/generated/health_pb.js'
import { frameMessage } from '../../src/nsm/grpc-message.ts'
import { callUnary } from '../../src/nsm/line-calls.ts'
import { createAgentLine } from '../../src/nsm/workload-calls.ts'
import { type RawServer, startRawServer } from '../support/raw-server.ts'
import { answer, trailers } from './http2/client-rig.ts'
import { data } from './http2/session-rig.ts'

/* A line without TLS to a server of frames. */

/** The answer of `ask`, as a message on the wire. */
export const serving = frameMessage(
  toBinary(HealthCheckResponseSchema, create(HealthCheckResponseSchema, { status: 1 })),
)
/** A whole answer to a stream. */
export const wholeAnswer = (streamId: number) => [answer(streamId), data(streamId, serving), trailers(streamId)]

/** A server of frames, closed after the test. */
export async function startServer(settings?: Parameters<typeof startRawServer>[0]): Promise<RawServer> {
  const server = await startRawServer(settings)
  onTestFinished(() => server.close())
  return server
}

/** A line to a port, closed after the test. */
export function lineTo({ port }: { readonly port: number }, clock: Clock = systemClock) {
  const line = createAgentLine(`tcp://127.0.0.1:${port}`, clock)
  onTestFinished(() => line.close())
  const ask = (settings: CallSettings = {}) =>
    callUnary(line, { method: Health.method.check, request: { service: 'it' }, settings })
  return { line, ask }
}
