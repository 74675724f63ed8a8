import type { IdentityResult } from '../daemon/login-protocol.ts'
import { identityText } from '../ui/login-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm whoami`: the identity that a connect uses. */
export class Whoami extends NsmCommand {
  static override description =
    'For a person also where the refresh token rests, and why in no safer place. Exits with 4 when this machine has no\n' +
    'identity, or an expired one.'
  static override examples = ['nsm whoami', 'nsm whoami --json']

  async run(): Promise<IdentityResult> {
    await this.parse(Whoami)
    const who = await this.withDaemon(true, (daemon) => daemon.whoami())
    const nowMs = this.context.wallMs()
    if ((who.notAfterMs ?? 0) <= nowMs) this.endWith(identityExitCode)
    this.log(identityText(who, nowMs))
    return who
  }
}

/** As the error IDENTITY has it. */
const identityExitCode = 4
