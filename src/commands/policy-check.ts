import * as Args from '@oclif/core/args'
import { errorTable } from '../base/errors.ts'
import type { PolicyCheckResult } from '../daemon/policy-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { policyCheckText } from '../ui/policy-text.ts'

/** `nsm policy check`: reads a policy file as a server would. */
export class PolicyCheck extends NsmCommand {
  static override description =
    'Reads a policy file as `nsm serve --policy` does and names the line that is wrong. Without FILE it asks the server that\n' +
    'runs on this machine, and exits with 3 when the file as it is now is not in force.'
  static override examples = ['nsm policy check policy.yaml', 'nsm policy check --json']
  static override args = {
    file: Args.string({ ignoreStdin: true, description: 'a policy file' }),
  }

  async run(): Promise<PolicyCheckResult> {
    const { args } = await this.parse(PolicyCheck)
    const { settings, checkPolicy } = this.context
    const result = await checkPolicy(settings, args.file)
    if (result.error !== undefined) this.endWith(errorTable.NOT_READY.exit)
    this.log(policyCheckText(result))
    return result
  }
}
