import { untilAborted } from '../base/until-aborted.ts'
import { Health, HealthCheckResponse_ServingStatus as Serving } from './generated/health_pb.js'
import { type MethodBinding, serverStream, unary } from './grpc.ts'

/** The health service of gRPC: every service that is bound serves, as every NSM server says. [NSM sdk grpcutils] */
export function healthService(bound: readonly MethodBinding[]): MethodBinding[] {
  const names = new Set(['', ...bound.map(({ service }) => service)])
  const statusOf = (name: string) => (names.has(name) ? Serving.SERVING : Serving.SERVICE_UNKNOWN)
  return [
    unary(Health.method.check, async ({ service }) => ({ status: statusOf(service) })),
    serverStream(Health.method.watch, async function* ({ service }, call) {
      yield { status: statusOf(service) }
      await untilAborted(call.signal)
    }),
  ]
}
