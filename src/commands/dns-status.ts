import type { DnsStatusResult } from '../daemon/dns-protocol.ts'
import { dnsStatusText } from '../ui/dns-status-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm dns status`: scopes, modes and their price; never starts the background process. */
export class DnsStatus extends NsmCommand {
  static override description =
    'SERVICE, HOST and NOBODY count whose answer won. A line tells which names the host learns of, too.'
  static override examples = ['nsm dns status', 'nsm dns status --json']

  async run(): Promise<DnsStatusResult> {
    await this.parse(DnsStatus)
    const absent: DnsStatusResult = { apiVersion: 'nsm/dns-status/v1' }
    const status = await this.askIfRunning(absent, (daemon) => daemon.dnsStatus())
    this.log(dnsStatusText(status))
    return status
  }
}
