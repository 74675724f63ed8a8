import * as Flags from '@oclif/core/flags'
import { parseDurationMs } from '../base/duration.ts'
import type { InviteResult } from '../ui/command-context.ts'
import { inviteText } from '../ui/join-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm invite`: a join string from the server that runs on this machine. */
export class Invite extends NsmCommand {
  static override description =
    'The join string admits one machine, once, unless it is --open. The output is a valid --join file.'
  static override examples = [
    'nsm invite > join.txt',
    'nsm invite --id laptop-7 --ttl 1h --json',
    'nsm invite --endpoint --id berlin > site.txt',
    'nsm invite --open > server.txt',
  ]
  static override flags = {
    endpoint: Flags.boolean({
      default: false,
      env: 'NSM_INVITE_ENDPOINT',
      summary: 'admits a further server of the network: nsm serve --join FILE',
    }),
    open: Flags.boolean({
      default: false,
      exclusive: ['endpoint', 'id', 'ttl'],
      env: 'NSM_INVITE_OPEN',
      summary: 'the join string without a token, for those who show an ID token: no secret, and it does not end',
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
      ...(flags.open ? { open: true } : {}),
    }
    const invited = await this.context.invite(this.context.settings, wanted)
    this.log(inviteText(invited))
    return invited
  }
}
