import type { CaState } from '../daemon/ca-protocol.ts'
import { caStatusText } from '../ui/ca-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm ca status --json` prints. */
interface CaStatusResult extends CaState {
  readonly apiVersion: 'nsm/ca-status/v1'
}

/** `nsm ca status`: the authority of the server that runs on this machine. */
export class CaStatus extends NsmCommand {
  static override description =
    'Says which root signs, what comes next when it is being replaced, and from when on `nsm ca rotate --finish` is allowed;\n' +
    'for each domain of the policy whether its trust bundle is there and why the last attempt to fetch it failed.'
  static override examples = ['nsm ca status', 'nsm ca status --json']

  async run(): Promise<CaStatusResult> {
    await this.parse(CaStatus)
    const state = await this.context.caStatus(this.context.settings)
    this.log(caStatusText(state, this.context.wallMs()))
    return { apiVersion: 'nsm/ca-status/v1', ...state }
  }
}
