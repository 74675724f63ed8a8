import * as Args from '@oclif/core/args'
import type { ListResult } from '../daemon/protocol.ts'
import { listText } from '../ui/list-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm list`: the services of the registry that this identity may ask for. */
export class List extends NsmCommand {
  static override examples = ['nsm list', 'nsm list my-networkservice-1']
  static override args = {
    pattern: Args.string({ ignoreStdin: true, description: 'only services whose name contains this' }),
  }

  async run(): Promise<ListResult> {
    const { args } = await this.parse(List)
    const request = args.pattern === undefined ? {} : { pattern: args.pattern }
    const result = await this.withDaemon(true, (daemon) => daemon.list(request, this.context.signal))
    this.log(listText(result))
    return result
  }
}
