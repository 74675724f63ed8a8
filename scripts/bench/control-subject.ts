import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { systemClock } from '../../src/base/clock.ts'
import { createLog } from '../../src/base/log.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import { createVl3, type Vl3 } from '../../src/endpoint/vl3.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { createOwnTokens } from '../../src/nsm/own-tokens.ts'
import { startNsmServer } from '../../src/nsm/server.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { openHub } from '../../src/tunnel/hub.ts'

/**
 * Runs our registry, manager and vL3 endpoint `bench` for the benchmark: `control-subject.ts PORT SOCKET FOLDER`, wired as
 * `nsm serve` does, with the identity of a Workload API. Prints "ready"; ends with its standard input.
 */
const [port = '0', socket = '', folder = ''] = process.argv.slice(2)
const service = 'bench'
const endpointName = 'bench-1'
/** A day: the one endpoint outlives every run. */
const offerMs = 86_400_000

const clock = systemClock
const write = (line: string) => void process.stderr.write(`${line}\n`)
const log = createLog({ level: 'warn', format: 'text', write, wallMs: clock.wallMs })
const source = await openWorkloadApi({ socket, clock, log })
const registry = createRegistry({ store: openRegistryStore(join(folder, 'registry.db')), clock, log })
const vl3 = await openVl3()
const manager = createManager({
  ...{ name: 'bench-manager', registry, clock, log },
  localEndpoint: (asked) => (asked === endpointName ? vl3 : undefined),
  dial: (target) => openChannel({ target, source, clock }),
})
const services = [...registryServices(registry, clock), ...manager.services]
const listen = { address: '127.0.0.1', port: Number(port) }
await startNsmServer({ source, listen, services, clock, log })
offer()
process.stdin.on('end', () => process.exit(0)).resume()
process.stdout.write('ready\n')

function openVl3(): Promise<Vl3> {
  return createVl3({
    ...{ service, endpointName, openHub, clock, log },
    prefixes: ['10.64.0.0/16'],
    dnsDomain: 'bench.internal',
    listenAddress: '127.0.0.1',
    listenPort: 0,
    reachableAt: () => '127.0.0.1',
    ownToken: createOwnTokens({ svid: () => source.current().svid, clock }),
    store: openEndpointStore(join(folder, 'endpoint.db')),
  })
}

function offer(): void {
  const { spiffeId } = source.current().svid
  registry.registerService(create(NetworkServiceSchema, { name: service, payload: 'IP' }), spiffeId)
  const offered = { name: endpointName, url: `tcp://127.0.0.1:${port}`, networkServiceNames: [service] }
  registry.registerEndpoint(create(NetworkServiceEndpointSchema, offered), spiffeId, clock.wallMs() + offerMs)
}
