import { create } from '@bufbuild/protobuf'
import { systemClock } from '../../src/base/clock.ts'
import { formatPrefix, parsePrefix } from '../../src/base/ip.ts'
import { silentLog } from '../../src/base/log.ts'
import { ipamService } from '../../src/endpoint/ipam-server.ts'
import { openPrefixAuthority } from '../../src/endpoint/prefix-authority.ts'
import { dialSites } from '../../src/endpoint/site-dialer.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import { createVl3, type Vl3 } from '../../src/endpoint/vl3.ts'
import type { IdentitySource } from '../../src/identity/source.ts'
import { signToken } from '../../src/identity/token.ts'
import { openChannel, type Target } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { startNsmServer } from '../../src/nsm/server.ts'
import { createManager } from '../../src/registry/manager.ts'
import { targetOf } from '../../src/registry/next-hop.ts'
import { createRegistry, type Registry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { openHub } from '../../src/tunnel/hub.ts'
import type { GoMesh } from './go-mesh.ts'
import { offer } from './our-serve.ts'

const clock = systemClock
const log = silentLog
const isSite = (spiffeId: string) => /^spiffe:\/\/peers\.test\/(ours|vl3)$/.test(spiffeId)
const whole = '10.64.0.0/16'

/** One site of the service `vl3`: registry, manager, prefix service and endpoint, as `nsm serve` wires a first site. */
export interface OurSite extends Target {
  readonly url: string
  readonly vl3: Vl3
}

/** Starts it with the identity `spiffe://peers.test/ours`; without `part` it leases one of its own prefix service. */
export async function startOurSite(
  mesh: GoMesh,
  { name, part }: { readonly name: string; readonly part?: string },
): Promise<OurSite> {
  const source = await mesh.source('ours')
  const { spiffeId } = source.current().svid
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, mayOffer: isSite, clock, log })
  const plan = openPrefixAuthority({
    ...{ path: ':memory:', prefixes: [parsePrefix(whole)], siteLength: 24, clock, log },
  })
  const parts = [part ?? formatPrefix(plan.open(spiffeId).take({ excluded: [] }))]
  const vl3 = await openVl3(source, { name, parts })
  const manager = createManager({
    ...{ name: 'our-manager', registry, clock, log },
    localEndpoint: (asked) => (asked === name ? vl3 : undefined),
    dial: (target, expect) => openChannel({ target, source, clock, expect }),
  })
  const services = [
    ...registryServices(registry, clock),
    ...manager.services,
    ...ipamService({ authority: plan, isSite }),
  ]
  const server = await startNsmServer({ source, listen: { address: '127.0.0.1', port: 0 }, services, clock, log })
  const { address, port } = server
  const url = `tcp://${address}:${port}`
  offer(registry, spiffeId, { name: 'vl3' }, { name, url })
  const dialer = dial(source, { name, vl3, registry })
  mesh.onClose(async () => {
    await dialer.stop()
    await server.stop()
    manager.close()
    registry.close()
    await vl3.stop()
    for (const opened of [store, plan]) opened.close()
  })
  return { address, port, url, vl3 }
}

function dial(source: IdentitySource, site: { readonly name: string; readonly vl3: Vl3; readonly registry: Registry }) {
  const query = create(NetworkServiceEndpointSchema, { networkServiceNames: ['vl3'] })
  return dialSites({
    end: site.vl3.sites,
    ownName: site.name,
    watch: (signal) => site.registry.watchEndpoints(query, signal),
    open(url) {
      const channel = openChannel({ target: targetOf(url), source, clock, expect: isSite })
      return { client: createNsmClient(channel), close: () => channel.close() }
    },
    address: '127.0.0.1',
    clock,
    log,
  })
}

function openVl3(
  source: IdentitySource,
  { name, parts }: { readonly name: string; readonly parts: readonly string[] },
): Promise<Vl3> {
  return createVl3({
    service: 'vl3',
    prefixes: [whole],
    parts,
    dnsDomain: 'vl3',
    endpointName: name,
    isSite,
    listenAddress: '127.0.0.1',
    listenPort: 0,
    reachableAt: () => '127.0.0.1',
    ownToken: (audience) => {
      const expiresMs = clock.wallMs() + 600_000
      return { token: signToken({ svid: source.current().svid, audience, expiresMs }), expiresMs }
    },
    store: openEndpointStore(':memory:'),
    openHub,
    clock,
    log,
  })
}
