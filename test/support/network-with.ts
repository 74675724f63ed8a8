import type { HostNetwork, InterfaceSettings } from '../../src/tunnel/tun/host.ts'

/** A machine's network with what an interface was given. */
export function networkWith(host: HostNetwork, placed: InterfaceSettings | undefined): HostNetwork {
  const { interfaceName = '', addresses = [], routes = [] } = placed ?? {}
  return {
    ...host,
    addresses: [...host.addresses, ...addresses.map((prefix) => ({ interfaceName, prefix }))],
    routes: [...host.routes, ...routes.map((prefix) => ({ interfaceName, prefix, gateway: undefined }))],
  }
}
