import { once } from 'node:events'
import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import type { TunnelUpResult } from '../daemon/tunnel-protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { readTunnelFile } from '../ui/tunnel-file.ts'
import { tunnelsText } from '../ui/tunnel-text.ts'

/** `nsm tunnel up`: a plain WireGuard tunnel, without Network Service Mesh. */
export class TunnelUp extends NsmCommand {
  static override description =
    'The file is one of wg-quick(8); its name is that of the interface. Addresses and routes are set as it says, and wg(8)\n' +
    'shows and changes the tunnel while it is up. Commands in the file (PreUp, PostUp, PreDown, PostDown), a number\n' +
    'for Table and SaveConfig are refused. DNS needs the domains its servers are asked for:\n' +
    'DNS = 10.0.0.1, corp.example.org. Prefixes that a network of this machine has are refused, the default route is not.'
  static override examples = ['nsm tunnel up wg0.conf', 'nsm tunnel up --interface wg1 - < secret.conf']
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'wg-quick file; - reads standard input' }),
  }
  static override flags = {
    interface: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_TUNNEL_INTERFACE',
      summary: "name of the interface, the file's when nothing is said",
    }),
    foreground: Flags.boolean({
      default: false,
      env: 'NSM_TUNNEL_FOREGROUND',
      summary: 'stay until a signal comes, and end the tunnel then',
    }),
  }

  async run(): Promise<TunnelUpResult> {
    const { args, flags } = await this.parse(TunnelUp)
    const { readInput, signal, wallMs, isTerminal } = this.context
    const request = await readTunnelFile(args.file, { interfaceName: flags.interface, readInput })
    const result = await this.withDaemon(true, (daemon) => daemon.tunnelUp(request, signal))
    this.log(tunnelsText([result.tunnel], { nowMs: wallMs(), relative: isTerminal }))
    if (flags.foreground) await this.#hold(request.interfaceName)
    return result
  }

  async #hold(interfaceName: string): Promise<void> {
    const { signal } = this.context
    if (!signal.aborted) await once(signal, 'abort')
    await this.withDaemon(false, (daemon) => daemon.tunnelDown({ interfaceNames: [interfaceName] }))
  }
}
