import { formatAddress, parseInterfaceAddress } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import type { Fence } from '../tunnel/tun/fence.ts'
import type { HostNetwork, InterfaceSettings } from '../tunnel/tun/host.ts'
import type { Machine } from './machine.ts'
import { bareAddresses, type NsmLease } from './wanted.ts'

type HostMachine = Pick<Machine, 'configureInterface' | 'updateInterface' | 'openFence'>

/** What a connection has on this machine beside its tunnel: addresses, routes, and the fence around them. */
export class HostSide {
  readonly #machine: HostMachine
  readonly #log: Log
  #fence: Fence | undefined
  #configured: InterfaceSettings | undefined
  #unconfigure: () => Promise<void> = async () => {}

  constructor(machine: HostMachine, log: Log) {
    this.#machine = machine
    this.#log = log
  }

  /** What an interface is to have for a lease; undefined when it has that already. */
  plan(lease: NsmLease, interfaceName: string, mayOverlap: readonly string[]): InterfaceSettings | undefined {
    const after: InterfaceSettings = {
      interfaceName,
      addresses: lease.answer.addresses,
      routes: [...new Set([...hostRoutes(lease), ...lease.answer.routes])],
      mtuBytes: lease.mtuBytes,
      ...(mayOverlap.length > 0 ? { mayOverlap } : {}),
    }
    return JSON.stringify(this.#configured) === JSON.stringify(after) ? undefined : after
  }

  /** Makes it so; the fence stands before the first packet has a way. True when `unplace` has something new to take back. */
  async place(after: InterfaceSettings): Promise<boolean> {
    const before = this.#configured
    this.#fence ??= await this.#machine.openFence(this.#log)
    await this.#fence.set({ ...after, prefixes: after.routes })
    if (before) await this.#machine.updateInterface(before, after, this.#log)
    else this.#unconfigure = await this.#machine.configureInterface(after, this.#log)
    this.#configured = after
    return before === undefined
  }

  /**
   * Sets again what the kernel took, as it does with routes, and with addresses of IPv6, when an interface is set down. One that is
   * down still refuses the first route, and then nothing was changed: an address set and taken back would be news of a change.
   */
  async restore({ addresses, routes }: Pick<HostNetwork, 'addresses' | 'routes'>): Promise<void> {
    const wanted = this.#configured
    if (!wanted) return
    const present = (list: readonly { readonly interfaceName: string; readonly prefix: string }[]) => {
      const own = list.filter(({ interfaceName }) => interfaceName === wanted.interfaceName)
      return (prefix: string) => own.some((one) => sameText(one.prefix) === sameText(prefix))
    }
    const left = {
      ...wanted,
      addresses: wanted.addresses.filter(present(addresses)),
      routes: wanted.routes.filter(present(routes)),
    }
    const routed = { ...left, routes: wanted.routes }
    const missingRoutes = wanted.routes.length - left.routes.length
    const missingAddresses = wanted.addresses.length - left.addresses.length
    if (missingRoutes > 0) await this.#machine.updateInterface(left, routed, this.#log)
    if (missingAddresses > 0 && this.#configured === wanted)
      await this.#machine.updateInterface(routed, wanted, this.#log)
    const prefixes = missingRoutes + missingAddresses
    if (prefixes > 0) this.#log.warn('addresses or routes of the tunnel were removed, and are set again', { prefixes })
  }

  /** Leaves the interface without addresses and routes, and the prefixes to the machine. */
  async withdraw(): Promise<void> {
    if (!this.#configured) return
    const empty = { ...this.#configured, addresses: [], routes: [] }
    await this.#machine.updateInterface(this.#configured, empty, this.#log)
    this.#configured = empty
    await this.#fence?.set({ ...empty, prefixes: [] })
  }

  /** The interface went with its tunnel: the fence stays, so that its packets do not find another way. */
  forget(): void {
    this.#configured = undefined
    this.#unconfigure = async () => {}
  }

  /** Takes addresses and routes back. */
  async unplace(): Promise<void> {
    const unconfigure = this.#unconfigure
    this.forget()
    await unconfigure()
  }

  /** Takes the fence down, last of all. */
  async close(): Promise<void> {
    await this.#fence?.close()
  }
}

function sameText(prefix: string): string {
  const { address, length } = parseInterfaceAddress(prefix)
  return `${formatAddress(address)}/${length}`
}

/** The endpoint's addresses are on the link [nsm-protocol 7.5]. */
function hostRoutes(lease: NsmLease): string[] {
  return bareAddresses(lease.answer.endpointAddresses).map((bare) => `${bare}/${bare.includes(':') ? 128 : 32}`)
}
