import type { Machine } from '../../src/connection/machine.ts'
import type { HostNetwork } from '../../src/tunnel/tun/host.ts'

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
        close: () => note('close'),
      }
    },
    configureInterface: async ({ addresses }) => {
      await note(`configure ${addresses}`)
      return () => note('unconfigure')
    },
    updateInterface: async (_before, { addresses }) => note(`update ${addresses}`),
    openFence: async () => ({ set: async () => {}, close: async () => {} }),
    readHostNetwork: async () => host,
    routeTo: async () => ({ interfaceName: 'eth0', sourceAddress: '192.0.2.7', mtuBytes: 1_500 }),
    prepareTunnel: async () => {},
    openEcho: () => ({ send: () => {}, close: () => {} }),
    freeUdpPort: async (wanted) => wanted || 51_820,
    lookUp: async () => [],
    lookUpAddress: async () => '',
  }
}
