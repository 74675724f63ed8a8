import { create } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { type Admission, openAdmission } from '../nsm/admission.ts'
import { createAnswerCache } from '../nsm/encoded-answers.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointRegistry,
  NetworkServiceEndpointResponseSchema,
  NetworkServiceEndpointSchema,
  NetworkServiceRegistry,
  NetworkServiceResponseSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { type MethodBinding, type PeerCall, serverStream, unary } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { tokenLifetimeMs } from '../nsm/peer.ts'
import { claimsOf, failedServerPolicy } from '../nsm/policies.ts'
import { type Beyond, findEndpointsBeyond, findServicesBeyond } from './domain-find.ts'
import { checkEndpointCounts } from './entry-limits.ts'
import {
  emptyRegistrationPath,
  enterRegistrationPath,
  formatRegistrationPath,
  parseRegistrationPath,
  pathMetadataKey,
} from './path-header.ts'
import type { Found, Registry } from './registry.ts'
import { checkUrlReach } from './url-reach.ts'
import { endpointView, serviceView } from './view.ts'

/** The two registry services of NSM over a registry. */
export function registryServices(
  registry: Registry,
  clock: Clock,
  around: { readonly beyond?: Beyond | undefined; readonly admission?: Admission } = {},
): MethodBinding[] {
  const parts = { registry, clock, beyond: around.beyond, admission: around.admission ?? openAdmission({}) }
  return [...networkServices(parts), ...endpoints(parts)]
}

interface Parts {
  readonly registry: Registry
  readonly clock: Clock
  readonly beyond: Beyond | undefined
  readonly admission: Admission
}

function networkServices(parts: Parts): MethodBinding[] {
  const { registry, beyond, admission } = parts
  const { register, find, unregister } = NetworkServiceRegistry.method
  return [
    unary(register, (service, call) =>
      changed(parts, call, (pathIds) => registry.registerService({ ...service, pathIds }, call.peer.spiffeId)),
    ),
    unary(unregister, ({ name }, call) =>
      changed(parts, call, () => {
        registry.unregisterService(name, call.peer.spiffeId)
        return {}
      }),
    ),
    serverStream(find, (query, call) => {
      const wanted = query.networkService ?? create(NetworkServiceSchema)
      const view = serviceView(admission, call.peer.spiffeId)
      const places = { registry, beyond, watch: query.watch, view, mayFind: mayFind(admission, call) }
      const elsewhere = findServicesBeyond(places, wanted, call)
      if (elsewhere) return serviceEvents(elsewhere)
      if (query.watch) return serviceEvents(registry.watchServices(wanted, call.signal, view))
      return servicesFound(registry.findServices(wanted, view))
    }),
  ]
}

function endpoints(parts: Parts): MethodBinding[] {
  const { registry, clock, beyond, admission } = parts
  const { register, find, unregister } = NetworkServiceEndpointRegistry.method
  return [
    unary(register, (endpoint, call) =>
      changed(parts, call, (pathIds) => {
        const latestEndMs = Math.min(call.peer.tokenExpiresMs ?? 0, clock.wallMs() + tokenLifetimeMs)
        checkUrlReach(endpoint.url, call.peer.address)
        return registry.registerEndpoint({ ...endpoint, pathIds }, call.peer.spiffeId, latestEndMs)
      }),
    ),
    unary(unregister, ({ name }, call) =>
      changed(parts, call, () => {
        registry.unregisterEndpoint(name, call.peer.spiffeId)
        return {}
      }),
    ),
    serverStream(find, (query, call) => {
      const wanted = query.networkServiceEndpoint ?? create(NetworkServiceEndpointSchema)
      checkEndpointCounts(wanted)
      const view = endpointView(admission, call.peer.spiffeId)
      const places = { registry, beyond, watch: query.watch, view, mayFind: mayFind(admission, call) }
      const elsewhere = findEndpointsBeyond(places, wanted, call)
      if (elsewhere) return endpointEvents(elsewhere)
      if (query.watch) return endpointEvents(registry.watchEndpoints(wanted, call.signal, view))
      return endpointsFound(registry.findEndpoints(wanted, view))
    }),
  ]
}

/** Makes a change for a caller whose path is in order; answers when it is on disk. */
async function changed<T>({ registry, clock }: Parts, call: PeerCall, change: (pathIds: string[]) => T): Promise<T> {
  const { pathIds, answer } = enter(call, clock)
  const made = change([...pathIds])
  await registry.committed()
  answer()
  return made
}

function mayFind(admission: Admission, { peer }: PeerCall): boolean {
  return admission.decide({ id: peer.spiffeId, action: 'find' }).isGranted
}

/* What the registry holds is found far more often than it changes: its answers are encoded once. */
const servicesFound = createAnswerCache(NetworkServiceResponseSchema, (networkService: NetworkService) => ({
  networkService,
}))
const endpointsFound = createAnswerCache(
  NetworkServiceEndpointResponseSchema,
  (networkServiceEndpoint: NetworkServiceEndpoint) => ({ networkServiceEndpoint }),
)

async function* serviceEvents(found: AsyncIterable<Found<NetworkService>>) {
  for await (const { entry, deleted } of found) yield { networkService: entry, deleted }
}

async function* endpointEvents(found: AsyncIterable<Found<NetworkServiceEndpoint>>) {
  for await (const { entry, deleted } of found) yield { networkServiceEndpoint: entry, deleted }
}

/**
 * Enters the registration path and checks it. `answer` sends it back in the header; `pathIds` are the identities on it, the
 * far ones as their tokens claim, the caller as TLS verified. Throws `REFUSED` naming the failed policy.
 */
function enter(call: PeerCall, clock: Clock): { readonly pathIds: readonly string[]; answer(): void } {
  const text = call.metadata(pathMetadataKey)
  const sent = text === undefined ? emptyRegistrationPath : parseRegistrationPath(text)
  const tokens = { caller: call.peer.token ?? '', own: call.own.token(call.peer.spiffeId).token }
  const path = enterRegistrationPath(sent, tokens)
  const failed = failedServerPolicy({
    segments: text === undefined ? [] : path.tokens.map((token) => ({ token })),
    index: path.index,
    peerCertificate: call.peer.certificate,
    peerId: call.peer.spiffeId,
    nowMs: clock.wallMs(),
  })
  if (failed) throw policyRefusal(failed)
  return {
    pathIds: path.tokens.slice(0, path.index + 1).map((token) => claimsOf(token)?.sub ?? ''),
    answer: () => call.setHeader(pathMetadataKey, formatRegistrationPath({ ...path, index: sent.index })),
  }
}
