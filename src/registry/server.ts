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

function networkServices({ registry, clock, beyond, admission }: Parts): MethodBinding[] {
  const { register, find, unregister } = NetworkServiceRegistry.method
  return [
    unary(register, async (service, call) => {
      const hop = enter(call, clock)
      const registered = registry.registerService({ ...service, pathIds: [...hop.pathIds] }, call.peer.spiffeId)
      await registry.committed()
      hop.answer()
      return registered
    }),
    unary(unregister, async ({ name }, call) => {
      const hop = enter(call, clock)
      registry.unregisterService(name, call.peer.spiffeId)
      await registry.committed()
      hop.answer()
      return {}
    }),
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

function endpoints({ registry, clock, beyond, admission }: Parts): MethodBinding[] {
  const { register, find, unregister } = NetworkServiceEndpointRegistry.method
  return [
    unary(register, async (endpoint, call) => {
      const hop = enter(call, clock)
      const latestEndMs = Math.min(call.peer.tokenExpiresMs ?? 0, clock.wallMs() + tokenLifetimeMs)
      checkUrlReach(endpoint.url, call.peer.address)
      const offered = { ...endpoint, pathIds: [...hop.pathIds] }
      const registered = registry.registerEndpoint(offered, call.peer.spiffeId, latestEndMs)
      await registry.committed()
      hop.answer()
      return registered
    }),
    unary(unregister, async ({ name }, call) => {
      const hop = enter(call, clock)
      registry.unregisterEndpoint(name, call.peer.spiffeId)
      await registry.committed()
      hop.answer()
      return {}
    }),
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
