import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openDomains } from '../../src/daemon/serve-domains.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import { createVl3, type Vl3 } from '../../src/endpoint/vl3.ts'
import { signToken } from '../../src/identity/token.ts'
import { openAdmission } from '../../src/nsm/admission.ts'
import { openChannel, type Target } from '../../src/nsm/channel.ts'
import {
  type NetworkService,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../../src/nsm/generated/registry_pb.js'
import type { NameService } from '../../src/nsm/interdomain-lookup.ts'
import { startNsmServer } from '../../src/nsm/server.ts'
import { createManager } from '../../src/registry/manager.ts'
import type { Dial } from '../../src/registry/next-hop.ts'
import { createRegistry, type Registry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { openHub } from '../../src/tunnel/hub.ts'
import type { GoMesh } from './go-mesh.ts'

/** Our registry, manager and vL3 endpoint, as `nsm serve` wires them. */
export interface OurServe extends Target {
  readonly url: string
  readonly registry: Registry
  readonly vl3: Vl3
}

/** Which of our servers, and where it asks for other domains. */
export interface OurSide {
  /** Identity, service, zone NAME.internal, endpoint NAME-1 and domain NAME.test. */
  readonly name: 'ours' | 'theirs'
  readonly names?: NameService
  /** Port; by default a free one. */
  readonly port?: number
}

/** Starts them with the identity `spiffe://peers.test/NAME`; `relays` may pass on requests of others. */
export async function startOurServe(
  mesh: GoMesh,
  relays: readonly string[] = [],
  { name, names, port: listenPort = 0 }: OurSide = { name: 'ours' },
): Promise<OurServe> {
  const source = await mesh.source(name)
  const clock = systemClock
  const log = silentLog
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, clock, log })
  const admission = openAdmission({ relays })
  const vl3 = await openVl3(name, () => source.current().svid)
  const dial: Dial = (target, expect) => openChannel({ target, source, clock, expect })
  const { spiffeId } = source.current().svid
  const domains = names && openDomains({ own: `${name}.test`, source, names, dial, clock })
  const manager = createManager({
    ...{ name: name === 'ours' ? 'our-manager' : 'their-manager', registry, admission, dial, clock, log },
    ...(domains ? { domains } : {}),
    localEndpoint: (asked) => (asked === `${name}-1` ? vl3 : undefined),
  })
  let url = ''
  const beyond = domains && { domains, ownUrl: () => url }
  const services = [...registryServices(registry, clock, { beyond }), ...manager.services]
  const server = await startNsmServer({
    source,
    listen: { address: '127.0.0.1', port: listenPort },
    services,
    admission,
    clock,
    log,
  })
  mesh.onClose(async () => {
    await server.stop()
    manager.close()
    domains?.close()
    registry.close()
    await vl3.stop()
    store.close()
  })
  const { address, port } = server
  url = `tcp://${address}:${port}`
  offer(registry, spiffeId, { name }, { name: `${name}-1`, url })
  return { address, port, url, registry, vl3 }
}

/** Registers a service and one endpoint of it, for a day. */
export function offer(
  registry: Registry,
  owner: string,
  service: MessageInitShape<typeof NetworkServiceSchema> & { readonly name: string },
  endpoint: MessageInitShape<typeof NetworkServiceEndpointSchema>,
): NetworkService {
  const day = systemClock.wallMs() + 86_400_000
  const registered = registry.registerService(create(NetworkServiceSchema, { payload: 'IP', ...service }), owner)
  const offered = create(NetworkServiceEndpointSchema, { networkServiceNames: [service.name], ...endpoint })
  registry.registerEndpoint(offered, owner, day)
  return registered
}

function openVl3(name: OurSide['name'], svid: () => Parameters<typeof signToken>[0]['svid']): Promise<Vl3> {
  return createVl3({
    service: name,
    prefixes: [name === 'ours' ? '10.64.0.0/24' : '10.65.0.0/24'],
    dnsDomain: `${name}.internal`,
    endpointName: `${name}-1`,
    listenAddress: '127.0.0.1',
    listenPort: 0,
    reachableAt: () => '127.0.0.1',
    ownToken: (audience) => {
      const expiresMs = systemClock.wallMs() + 600_000
      return { token: signToken({ svid: svid(), audience, expiresMs }), expiresMs }
    },
    store: openEndpointStore(':memory:'),
    openHub,
    clock: systemClock,
    log: silentLog,
  })
}
