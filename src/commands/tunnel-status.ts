import type { TunnelStatusResult } from '../daemon/tunnel-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { tunnelsText } from '../ui/tunnel-text.ts'

/** `nsm tunnel status`: the plain tunnels and their peers; never starts the background process. */
export class TunnelStatus extends NsmCommand {
  static override description = 'wg show tells the same of interfaces that have a control socket.'
  static override examples = ['nsm tunnel status', 'nsm tunnel status --json']

  async run(): Promise<TunnelStatusResult> {
    await this.parse(TunnelStatus)
    const absent = { apiVersion: 'nsm/tunnel-status/v1', tunnels: [] } as const
    const status = await this.askIfRunning<TunnelStatusResult>(absent, (daemon) => daemon.tunnelStatus())
    const { wallMs, isTerminal } = this.context
    this.log(tunnelsText(status.tunnels, { nowMs: wallMs(), relative: isTerminal }))
    return status
  }
}
