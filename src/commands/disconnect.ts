import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { silentLog } from '../base/log.ts'
import type { DisconnectResult } from '../daemon/protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm disconnect`: leaves network services; leaving twice is no failure. */
export class Disconnect extends NsmCommand {
  static override description =
    'Without an argument every service is left. Addresses, routes and the system resolver are put back as they were,\n' +
    'also when the background process was killed before.'
  static override examples = ['nsm disconnect', 'nsm disconnect my-networkservice-1']
  static override args = {
    service: Args.string({
      multiple: true,
      ignoreStdin: true,
      description: 'services to leave; all when none is named',
    }),
  }
  static override flags = {
    all: Flags.boolean({ default: false, env: 'NSM_ALL', summary: 'leave every service, as without an argument' }),
    force: Flags.boolean({ default: false, env: 'NSM_FORCE', summary: 'do not wait for the manager to agree' }),
  }

  async run(): Promise<DisconnectResult> {
    const { args, flags } = await this.parse(Disconnect)
    const services = flags.all ? [] : (args.service ?? [])
    const result = await this.#leave({ services, force: flags.force })
    this.log(disconnectText(result))
    return result
  }

  async #leave(request: { readonly services: readonly string[]; readonly force: boolean }): Promise<DisconnectResult> {
    const { signal, settings } = this.context
    const left = await this.askIfRunning(undefined, (daemon) => daemon.disconnect(request, signal))
    if (left) return left
    await this.context.repairMachine(settings, silentLog)
    return { apiVersion: 'nsm/disconnect/v1', disconnected: [] }
  }
}

function disconnectText(result: DisconnectResult): string {
  if (result.disconnected.length === 0) return '# nothing was connected'
  return result.disconnected.map((service) => `${service}  disconnected`).join('\n')
}
