import type { TunnelApi, TunnelView } from '../../src/daemon/tunnel-protocol.ts'

/** A plain tunnel with one peer that was heard and one that was not. */
export const tunnelView: TunnelView = {
  interfaceName: 'wg0',
  state: 'up',
  publicKey: 'c2VydmVyIGtleSBvZiAzMiBieXRlcyBpbiB0aGUgdGU=',
  listenPort: 51_820,
  addresses: ['10.9.0.2/24'],
  routes: ['10.9.0.0/24'],
  mtuBytes: 1_420,
  peers: [
    {
      publicKey: 'cGVlciBrZXkgb2YgMzIgYnl0ZXMgaW4gdGhlIHRlc3Q=',
      endpoint: '192.0.2.1:51820',
      allowedPrefixes: ['10.9.0.0/24'],
      lastHandshakeAgeMs: 42_000,
      receivedBytes: 1_536,
      sentBytes: 512,
    },
    {
      publicKey: 'b3RoZXIga2V5IG9mIDMyIGJ5dGVzIGluIHRoZSB0ZXM=',
      allowedPrefixes: [],
      receivedBytes: 0,
      sentBytes: 0,
    },
  ],
  counters: { spoofed: 0 },
  controlSocket: '/var/run/wireguard/wg0.sock',
}

/** The methods of plain tunnels, answered by `answer`. */
export function fakeTunnelApi(answer: <T>(name: string, value: T, request?: unknown) => Promise<T>): TunnelApi {
  return {
    tunnelUp: (request) => answer('tunnelUp', { apiVersion: 'nsm/tunnel-up/v1', tunnel: tunnelView } as const, request),
    tunnelDown: (request) =>
      answer('tunnelDown', { apiVersion: 'nsm/tunnel-down/v1', ended: request.interfaceNames } as const, request),
    tunnelStatus: () => answer('tunnelStatus', { apiVersion: 'nsm/tunnel-status/v1', tunnels: [tunnelView] } as const),
  }
}
