import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { type ConnectCall, Connections } from '../../src/connection/connections.ts'
import type { Machine } from '../../src/connection/machine.ts'
import type { Names } from '../../src/connection/names.ts'
import type { ConnectionStore, Remembered } from '../../src/connection/store.ts'
import type { Wanted } from '../../src/connection/wanted.ts'
import type { NsmClient } from '../../src/nsm/client.ts'
import { type Connection, ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../../src/nsm/generated/networkservice_pb.js'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import type { HostNetwork, InterfaceSettings } from '../../src/tunnel/tun/host.ts'
import type { Tunnel } from '../../src/tunnel/tunnels.ts'
import { networkWith } from '../support/network-with.ts'
import { FakeClock } from './fake-clock.ts'

/** What is wanted of a service when nothing special is. */
export const plainWanted: Wanted = {
  service: 'blue',
  labels: {},
  name: 'laptop',
  allowPrefixes: [],
  excludePrefixes: [],
  allowDomains: [],
  dnsMode: 'fanout',
  dns: 'auto',
}

/** Where a step can be made to fail. */
export type Step = 'request' | 'open' | 'set-peer' | 'handshake' | 'configure' | 'attach' | 'look-up'

/** A manager, a machine and a resolver in memory: writes down what is done, fails where told. */
export class World {
  readonly clock = new FakeClock()
  readonly done: string[] = []
  readonly requests: NetworkServiceRequest[] = []
  readonly failing = new Map<Step, NsmError>()
  readonly hanging = new Set<Step>()
  /** Steps that never end and do not heed their signal. */
  readonly deaf = new Set<Step>()
  /** Resolve it and the deaf steps go on. */
  readonly cured = Promise.withResolvers<void>()
  host: HostNetwork = {
    addresses: [{ interfaceName: 'eth0', prefix: '192.0.2.7/24' }],
    routes: [],
    interfaceNames: ['lo', 'eth0'],
  }
  /** What the tunnel's interface has. */
  placed: InterfaceSettings | undefined
  answer: (request: NetworkServiceRequest) => Connection = (request) => this.ordinaryAnswer(request)
  failTunnel: (error: NsmError) => void = () => {}
  /** What the tunnel was told. */
  mtuBytes: number | undefined
  /** As when the manager goes away. */
  endMonitor: () => void = () => {}
  counts: number[] = []
  /** How often the tunnel's thread was asked how its peer is. */
  statsAsked = 0
  /** When an echo request was sent. */
  readonly echoes: number[] = []
  /** What the tunnel says of its peer. */
  peer = {
    publicKey: '',
    lastHandshakeAgeMs: 0,
    rttMs: 1,
    receivedBytes: 0,
    sentBytes: 0,
    spoofed: 0,
    endpoint: undefined,
  }
  readonly remembered = new Map<string, Remembered>()
  readonly connections: Connections

  constructor() {
    this.connections = new Connections({
      machine: this.#machine(),
      names: this.#names(),
      store: this.#store(),
      journal: {
        add: async (name) => this.#note(`journal ${name}`),
        remove: async (name) => this.#note(`unjournal ${name}`),
      },
      clock: this.clock,
      log: silentLog,
      random: () => 0,
      onCount: (count) => this.counts.push(count),
    })
  }

  /** One connect call of this world's manager. */
  call(wanted: Partial<Wanted> = {}): ConnectCall {
    return {
      wanted: { ...plainWanted, ...wanted },
      session: async () => ({ client: this.#client(), address: '192.0.2.1', url: 'tcp://192.0.2.1:5001' }),
      progress: () => {},
    }
  }

  connect(wanted: Partial<Wanted> = {}, signal: AbortSignal = new AbortController().signal) {
    return this.connections.connect(this.call(wanted), signal)
  }

  ordinaryAnswer(request: NetworkServiceRequest): Connection {
    const expires = timestampFromMs(this.clock.nowMs + 600_000)
    const [offered] = request.mechanismPreferences
    const { id = '', networkService = '', labels = {}, payload = '' } = request.connection ?? {}
    return create(ConnectionSchema, {
      ...{ id, networkService, labels, payload },
      mechanism: wireGuardMechanism(
        { dstIp: '192.0.2.1', dstPort: 51_820, dstPublicKey: new Uint8Array(32).fill(7), mtuBytes: 1_400 },
        offered,
      ),
      networkServiceEndpointName: 'blue-vl3',
      path: {
        index: 0,
        pathSegments: [
          { name: 'laptop', id, token: 't', expires },
          { name: 'manager', id: 'm-1', token: 't', expires },
        ],
      },
      context: {
        ipContext: {
          srcIpAddrs: ['10.64.0.1/32'],
          dstIpAddrs: ['10.64.0.0/32'],
          srcRoutes: [{ prefix: '10.64.0.0/16', nextHop: '10.64.0.0' }],
        },
        dnsContext: { configs: [{ dnsServerIps: ['10.64.0.0'], searchDomains: [`${networkService}.nsm.internal`] }] },
      },
    })
  }

  #note(what: string): void {
    this.done.push(what)
  }

  async #step(step: Step, what: string, signal?: AbortSignal): Promise<void> {
    this.#note(what)
    const error = this.failing.get(step)
    if (error) throw error
    if (this.deaf.has(step)) await this.cured.promise
    if (!this.hanging.has(step)) return
    await new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }))
  }

  #client(): NsmClient {
    const onMonitor = (end: () => void) => {
      this.endMonitor = end
    }
    return {
      request: async (request, signal) => {
        this.requests.push(request)
        await this.#step('request', 'request', signal)
        return this.answer(request)
      },
      close: async () => this.#note('close'),
      async *monitor(_selector, signal) {
        await new Promise<void>((resolve) => {
          onMonitor(resolve)
          signal?.addEventListener('abort', () => resolve(), { once: true })
        })
      },
    }
  }

  #machine(): Machine {
    return {
      openTunnel: async (config, signal) => {
        await this.#step('open', `open ${config.interfaceName}`, signal)
        return this.#tunnel(config.interfaceName)
      },
      readHostNetwork: async () => networkWith(this.host, this.placed),
      openHostChanges: async () => ({ any: () => true, close: () => {} }),
      configureInterface: async (settings) => {
        await this.#step('configure', `configure ${settings.addresses} ${settings.routes}`)
        this.placed = settings
        return async () => {
          this.placed = undefined
          this.#note('unconfigure')
        }
      },
      updateInterface: async (_before, after) => {
        this.placed = after
        this.#note(`update ${after.addresses}`)
      },
      openFence: async () => ({
        set: async ({ addresses, prefixes }) => this.#note(`fence ${addresses} ${prefixes}`),
        close: async () => this.#note('unfence'),
      }),
      routeTo: async () => ({ interfaceName: 'eth0', sourceAddress: '192.0.2.7', mtuBytes: 1_500 }),
      prepareTunnel: async () => {},
      openEcho: () => ({ send: () => this.echoes.push(this.clock.nowMs), close: () => {} }),
      freeUdpPort: async (wanted) => wanted,
      lookUp: async () => {
        await this.#step('look-up', 'look-up')
        return ['10.64.0.1']
      },
      lookUpAddress: async () => 'laptop.blue.nsm.internal',
    }
  }

  #tunnel(interfaceName: string): Tunnel {
    const failed = new Promise<NsmError>((resolve) => {
      this.failTunnel = resolve
    })
    return {
      interfaceName,
      listenPort: 51_820,
      failed,
      setPeer: async () => this.#step('set-peer', 'set-peer'),
      removePeer: async () => this.#note('remove-peer'),
      handshake: async (_key, signal) => this.#step('handshake', 'handshake', signal),
      setMtu: async (mtuBytes) => {
        this.mtuBytes = mtuBytes
      },
      stats: async () => {
        this.statsAsked++
        return { peers: [this.peer], counters: {} }
      },
      heard: () => this.peer.receivedBytes,
      close: async () => this.#note('close-tunnel'),
    }
  }

  #names(): Names {
    return {
      upstreams: async () => [{ address: '192.0.2.254', port: 53 }],
      prepare: () => {},
      attach: async (_owner, { searchDomains }) => this.#step('attach', `attach ${searchDomains}`),
      detach: async () => this.#note('detach'),
      resolver: () => undefined,
      status: () => undefined,
      close: async () => {},
    }
  }

  #store(): ConnectionStore {
    return {
      clientName: 'laptop-1',
      get: (service) => {
        const known = this.remembered.get(service) ?? {
          connectionId: `${service}-id`,
          privateKey: new Uint8Array(32).fill(3),
        }
        this.remembered.set(service, known)
        return known
      },
      setLast: (service, last) => {
        const { connectionId, privateKey } = this.remembered.get(service) ?? {
          connectionId: '',
          privateKey: new Uint8Array(32),
        }
        const kept = { connectionId, privateKey }
        this.remembered.set(service, last ? { ...kept, last: last.connection, manager: last.manager } : kept)
      },
      flush: async () => {},
    }
  }
}
