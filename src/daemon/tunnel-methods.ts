import { NsmError } from '../base/errors.ts'
import { createTurns } from '../base/turns.ts'
import { parseWgQuick } from '../tunnel/wg-quick.ts'
import { type OpenTunnel, openFileTunnel, type TunnelParts } from './tunnel-open.ts'
import type { TunnelApi } from './tunnel-protocol.ts'

/** Plain tunnels of the background process; `onCount` hears how many there are, those being opened included. */
export function createTunnelApi(
  parts: TunnelParts & { readonly onCount: (count: number) => void },
): TunnelApi & { close(): Promise<void> } {
  const tunnels = new Map<string, OpenTunnel>()
  const turns = createTurns()
  const stopping = new AbortController()
  let opening = 0
  const count = () => parts.onCount(tunnels.size + opening)
  const end = async (interfaceName: string): Promise<boolean> => {
    const tunnel = tunnels.get(interfaceName)
    await tunnel?.close()
    tunnels.delete(interfaceName)
    count()
    return tunnel !== undefined
  }
  const down = (interfaceName: string) => turns.run(interfaceName, () => end(interfaceName))
  return {
    async tunnelUp({ interfaceName, fileName, text }, signal) {
      const file = parseWgQuick(text, fileName)
      opening++
      count()
      try {
        const tunnel = await turns.run(interfaceName, async () => {
          if (tunnels.has(interfaceName)) throw isUp(interfaceName)
          const stop = AbortSignal.any([signal, stopping.signal])
          const opened = await openFileTunnel({ interfaceName, file }, parts, stop)
          tunnels.set(interfaceName, opened)
          return opened
        })
        return { apiVersion: 'nsm/tunnel-up/v1', tunnel: await tunnel.view() }
      } finally {
        opening--
        count()
      }
    },
    async tunnelDown({ interfaceNames }) {
      const ended: string[] = []
      for (const name of interfaceNames) if (await down(name)) ended.push(name)
      return { apiVersion: 'nsm/tunnel-down/v1', ended }
    },
    async tunnelStatus() {
      const views = await Promise.all([...tunnels.values()].map((tunnel) => tunnel.view()))
      return { apiVersion: 'nsm/tunnel-status/v1', tunnels: views }
    },
    async close() {
      stopping.abort(new NsmError('LOST', 'the background process ends', '`nsm tunnel up` starts it again'))
      await turns.settled()
      await Promise.all([...tunnels.keys()].map(down))
    },
  }
}

function isUp(interfaceName: string): NsmError {
  const next = `nsm tunnel down ${interfaceName}, or wg setconf for a change while it is up`
  return new NsmError('CONFLICT', `the tunnel ${interfaceName} is up already`, next)
}
