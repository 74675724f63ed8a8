import * as Flags from '@oclif/core/flags'
import type { InviteResult } from '../ui/command-context.ts'
import { parseDurationMs } from '../ui/duration.ts'
import { inviteText } from '../ui/join-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm invite`: a join string from the server that runs on this machine. */
export class Invite extends NsmCommand {
  static override description = 'The join string admits one machine, once. The output is a valid --join file.'
  static override examples = [
    'nsm invite > join.txt',
    'nsm invite --id laptop-7 --ttl 1h --json',
    'nsm invite --endpoint --id berlin > site.txt',
  ]
  static override flags = {
    endpoint: Flags.boolean({
      default: false,
      env: 'NSM_INVITE_ENDPOINT',
      summary: 'admits a further server of the network: nsm serve --join FILE',
    }),
    id: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_INVITE_ID',
      summary: 'identity the machine gets, made up when nothing is said',
    }),
    ttl: Flags.string({
      default: '15m',
      helpValue: 'DURATION',
      env: 'NSM_INVITE_TTL',
      summary: 'how long the join string can be used',
    }),
  }

  async run(): Promise<InviteResult> {
    const { flags } = await this.parse(Invite)
    const wanted = {
      ttlMs: parseDurationMs(flags.ttl),
      ...(flags.id === undefined ? {} : { id: flags.id }),
      ...(flags.endpoint ? { endpoint: true } : {}),
    }
    const invited = await this.context.invite(this.context.settings, wanted)
    this.log(inviteText(invited))
    return invited
  }
}
