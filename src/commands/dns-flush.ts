import type { DnsFlushResult } from '../daemon/dns-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm dns flush`: the next answers come from their servers. */
export class DnsFlush extends NsmCommand {
  static override examples = ['nsm dns flush']

  async run(): Promise<DnsFlushResult> {
    await this.parse(DnsFlush)
    const result = await this.withDaemon(false, (daemon) => daemon.dnsFlush())
    this.log(`# ${result.forgotten} cached replies forgotten`)
    return result
  }
}
