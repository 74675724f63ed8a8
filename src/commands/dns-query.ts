import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import type { DnsQueryResult, DnsQuery as Query } from '../daemon/dns-protocol.ts'
import { dnsQueryText } from '../ui/dns-answer-text.ts'
import { recordTypeFlag } from '../ui/dns-flags.ts'
import { parseServer } from '../ui/dns-serve-request.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm dns query`: asks the resolver as a program would. */
export class DnsQuery extends NsmCommand {
  static override description = 'Asks the resolver of the background process, or the one of --server, over the network.'
  static override examples = [
    'nsm dns query db.my-networkservice-1.nsm.internal',
    'nsm dns query example.com --type AAAA --server 127.0.0.1:5300',
  ]
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: 'domain name' }),
  }
  static override flags = {
    type: recordTypeFlag(),
    tcp: Flags.boolean({ default: false, env: 'NSM_DNS_TCP', summary: 'ask over TCP at once' }),
    server: Flags.string({
      helpValue: 'HOST[:PORT]',
      env: 'NSM_DNS_SERVER',
      summary: 'ask this server, the resolver of the background process when none is given',
    }),
  }

  async run(): Promise<DnsQueryResult> {
    const { args, flags } = await this.parse(DnsQuery)
    const server = flags.server === undefined ? await this.#ownServer() : parseServer(flags.server, 'server')
    const query: Query = { server, name: args.name, type: flags.type, overTcp: flags.tcp }
    const result = await this.context.queryDns(query, this.context.signal)
    this.log(dnsQueryText(result))
    return result
  }

  async #ownServer(): Promise<Query['server']> {
    const { resolver } = await this.withDaemon(false, (daemon) => daemon.dnsStatus())
    if (resolver) return parseServer(resolver.listening, 'server')
    throw new NsmError('NOT_READY', 'no resolver runs: no service brings names', 'name one with --server')
  }
}
