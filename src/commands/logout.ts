import { printable } from '../base/printable.ts'
import type { IdentityResult } from '../daemon/login-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm logout --json` prints: the identity that was. */
type LogoutResult = Omit<IdentityResult, 'apiVersion'> & { readonly apiVersion: 'nsm/logout/v1' }

/** `nsm logout`: this machine forgets its identity. */
export class Logout extends NsmCommand {
  static override description =
    'Removes the identity, its key and the refresh token from this machine, and takes the login back at its issuer. Logging\n' +
    'out twice is no failure. Connections are left first: `nsm disconnect`.'
  static override examples = ['nsm logout']

  async run(): Promise<LogoutResult> {
    await this.parse(Logout)
    const who = await this.withDaemon(true, (daemon) => daemon.logout())
    this.log(who.spiffeId === undefined ? '# there was no identity' : `${who.spiffeId}  forgotten`)
    for (const warning of who.warnings ?? []) this.context.writeError(`# ${printable(warning)}`)
    return { ...who, apiVersion: 'nsm/logout/v1' }
  }
}
