import * as Args from '@oclif/core/args'
import { silentLog } from '../base/log.ts'
import type { TunnelDownResult } from '../daemon/tunnel-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { interfaceNameOf } from '../ui/tunnel-file.ts'

/** `nsm tunnel down`: ends plain WireGuard tunnels; ending one twice is no failure. */
export class TunnelDown extends NsmCommand {
  static override description = 'Addresses, routes and names are put back as they were.'
  static override examples = ['nsm tunnel down wg0', 'nsm tunnel down /etc/wireguard/wg0.conf']
  static override args = {
    tunnel: Args.string({
      required: true,
      multiple: true,
      ignoreStdin: true,
      description: 'interfaces, or the files they came from',
    }),
  }

  async run(): Promise<TunnelDownResult> {
    const { args } = await this.parse(TunnelDown)
    const result = await this.#end(args.tunnel.map(interfaceNameOf))
    this.log(result.ended.map((name) => `${name}  ended`).join('\n') || '# no such tunnel was up')
    return result
  }

  async #end(interfaceNames: readonly string[]): Promise<TunnelDownResult> {
    const ended = await this.askIfRunning(undefined, (daemon) => daemon.tunnelDown({ interfaceNames }))
    if (ended) return ended
    await this.context.repairMachine(this.context.settings, silentLog)
    return { apiVersion: 'nsm/tunnel-down/v1', ended: [] }
  }
}
