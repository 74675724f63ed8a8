import * as Flags from '@oclif/core/flags'
import { parseDurationMs } from '../base/duration.ts'
import { NsmError } from '../base/errors.ts'
import type { CaState } from '../daemon/ca-protocol.ts'
import { caText } from '../ui/ca-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm ca rotate --json` prints. */
interface CaRotateResult extends CaState {
  readonly apiVersion: 'nsm/ca-rotate/v1'
}

/** `nsm ca rotate`: another root for the server that runs on this machine. */
export class CaRotate extends NsmCommand {
  static override description =
    'Makes a new root and publishes it; members and federated domains learn it. After 20 minutes it signs, and a day\n' +
    'later the old root is dropped. Nobody is disconnected and a restart goes on where it was. With --finish the old root\n' +
    'is dropped at once, which is refused for 5 minutes after the new one signs, while members renew: machines that were\n' +
    'away since then have to join again.'
  static override examples = ['nsm ca rotate', 'nsm ca rotate --after 1m', 'nsm ca rotate --finish']
  static override flags = {
    after: Flags.string({
      helpValue: 'DURATION',
      env: 'NSM_CA_ROTATE_AFTER',
      summary: 'how long the new root is published before it signs, 20m when nothing is said',
    }),
    finish: Flags.boolean({ default: false, env: 'NSM_CA_ROTATE_FINISH', summary: 'drop the old root now' }),
  }

  async run(): Promise<CaRotateResult> {
    const { flags } = await this.parse(CaRotate)
    const { after, finish } = flags
    if (finish && after !== undefined) {
      throw new NsmError('USAGE', '--after is for the beginning, --finish for the end', 'give one of them')
    }
    const wanted = { finish, ...(after === undefined ? {} : { publishMs: parseDurationMs(after) }) }
    const state = await this.context.rotateRoot(this.context.settings, wanted)
    this.log(caText(state, this.context.wallMs()))
    return { apiVersion: 'nsm/ca-rotate/v1', ...state }
  }
}
