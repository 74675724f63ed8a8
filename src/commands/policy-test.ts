import * as Flags from '@oclif/core/flags'
import { errorTable } from '../base/errors.ts'
import type { PolicyTestResult } from '../daemon/policy-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { policyTestText } from '../ui/policy-text.ts'

/** `nsm policy test`: may somebody do something, and which line says so. */
export class PolicyTest extends NsmCommand {
  static override description =
    'Asks a policy file, or without one the server that runs on this machine. Exits with 5 when it is refused.'
  static override examples = [
    'nsm policy test --id spiffe://acme.example/ci/7 --action request --service red',
    'nsm policy test --policy policy.yaml --id spiffe://acme.example/ops/eve --action admin --json',
  ]
  static override flags = {
    id: Flags.string({ required: true, helpValue: 'ID', env: 'NSM_POLICY_ID', summary: 'SPIFFE ID of whoever asks' }),
    action: Flags.string({
      required: true,
      helpValue: 'ACTION',
      env: 'NSM_POLICY_ACTION',
      summary: 'find, request, offer, own, monitor, relay or admin',
    }),
    service: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_POLICY_SERVICE',
      summary: 'network service, any when none is given',
    }),
    policy: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_POLICY',
      summary: 'policy file, that of the running server when none is given',
    }),
  }

  async run(): Promise<PolicyTestResult> {
    const { id, action, service, policy } = (await this.parse(PolicyTest)).flags
    const { settings, testPolicy } = this.context
    const asked = { id, action, ...(service === undefined ? {} : { service }) }
    const result = await testPolicy(settings, policy === undefined ? asked : { ...asked, path: policy })
    if (!result.isGranted) this.endWith(errorTable.REFUSED.exit)
    this.log(policyTestText(result))
    return result
  }
}
