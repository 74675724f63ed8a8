import * as Args from '@oclif/core/args'
import type { DnsTraceResult } from '../daemon/dns-protocol.ts'
import { dnsTraceText } from '../ui/dns-answer-text.ts'
import { recordTypeFlag } from '../ui/dns-flags.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm dns trace`: one look-up past the cache, told in full. */
export class DnsTrace extends NsmCommand {
  static override description =
    'Shows which scope takes the name, every server that was asked, what it said and when, who won, and why the others\n' +
    'lost. Waits for the slow ones too, 4.5 s at most.'
  static override examples = [
    'nsm dns trace db.my-networkservice-1.nsm.internal',
    'nsm dns trace example.com --type MX',
  ]
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: 'domain name' }),
  }
  static override flags = { type: recordTypeFlag() }

  async run(): Promise<DnsTraceResult> {
    const { args, flags } = await this.parse(DnsTrace)
    const request = { name: args.name, type: flags.type }
    const result = await this.withDaemon(false, (daemon) => daemon.dnsTrace(request, this.context.signal))
    this.log(dnsTraceText(result))
    return result
  }
}
