import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import { printable } from '../base/printable.ts'
import type { LogoutResult } from '../daemon/login-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm logout`: this machine forgets who it is. */
export class Logout extends NsmCommand {
  static override description =
    'Removes the identity, its key and the refresh token from this machine, and takes the login back at its issuer. Who is\n' +
    'logged in to several names one of them by its trust domain or its issuer, or says --all; when one remains, it is used\n' +
    'from then on. Logging out twice is no failure. Connections are left first: `nsm disconnect`.'
  static override examples = ['nsm logout', 'nsm logout acme.example', 'nsm logout https://login.acme.example']
  static override args = {
    name: Args.string({
      ignoreStdin: true,
      description: 'trust domain, or URL of an issuer; not needed when there is one',
    }),
  }
  static override flags = {
    all: Flags.boolean({ default: false, env: 'NSM_LOGOUT_ALL', summary: 'forget every identity' }),
  }

  async run(): Promise<LogoutResult> {
    const { args, flags } = await this.parse(Logout)
    const { all } = flags
    const whose = args.name
    if (all && whose !== undefined) throw new NsmError('USAGE', '--all and a name', 'give one of them')
    const result = await this.withDaemon(true, (daemon) =>
      daemon.logout({ all, ...(whose !== undefined && { whose }) }),
    )
    const lines = result.forgotten.map((identity) => `${identity}  forgotten`)
    this.log(lines.length > 0 ? lines.join('\n') : '# there was no identity')
    for (const warning of result.warnings ?? []) this.context.writeError(`# ${printable(warning)}`)
    return result
  }
}
