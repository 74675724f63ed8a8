import type { Machine } from '../../src/connection/machine.ts'
import type { HostNetwork, InterfaceSettings } from '../../src/tunnel/tun/host.ts'
import { networkWith } from './network-with.ts'

/** A machine on which everything succeeds and nothing happens; `done` says what was asked of it. */
export interface IdleMachine extends Machine {
  readonly done: string[]
}

const host: HostNetwork = {
  addresses: [{ interfaceName: 'eth0', prefix: '192.0.2.7/24' }],
  routes: [],
  interfaceNames: ['lo', 'eth0'],
}

export function createIdleMachine(): IdleMachine {
  const done: string[] = []
  let placed: InterfaceSettings | undefined
  const note = async (what: string) => void done.push(what)
  return {
    done,
    openTunnel: async ({ interfaceName, listenPort }) => {
      await note('open')
      return {
        interfaceName,
        listenPort,
        failed: new Promise(() => {}),
        setPeer: async () => {},
        removePeer: async () => {},
        handshake: async () => {},
        setMtu: async () => {},
        stats: async () => ({ peers: [], counters: {} }),
        heard: () => 0,
        close: () => note('close'),
      }
    },
    configureInterface: async (settings) => {
      placed = settings
      await note(`configure ${settings.addresses}`)
      return () => note('unconfigure')
    },
    updateInterface: async (_before, after) => {
      placed = after
      await note(`update ${after.addresses}`)
    },
    openFence: async () => ({ set: async () => {}, close: async () => {} }),
    readHostNetwork: async () => networkWith(host, placed),
    openHostChanges: async () => ({ any: () => true, close: () => {} }),
    routeTo: async () => ({ interfaceName: 'eth0', sourceAddress: '192.0.2.7', mtuBytes: 1_500 }),
    prepareTunnel: async () => {},
    openEcho: () => ({ send: () => {}, close: () => {} }),
    freeUdpPort: async (wanted) => wanted || 51_820,
    lookUp: async () => [],
    lookUpAddress: async () => '',
  }
}
