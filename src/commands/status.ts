import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { errorFromData, NsmError } from '../base/errors.ts'
import type { StatusResult } from '../daemon/protocol.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { statusText } from '../ui/status-text.ts'

/** `nsm status`: what is connected; never starts the background process. */
export class Status extends NsmCommand {
  static override description = 'One line per service; lines that start with # tell its health.'
  static override examples = ['nsm status', 'nsm status --check ready my-networkservice-1']
  static override args = {
    service: Args.string({ multiple: true, ignoreStdin: true, description: 'only these services' }),
  }
  static override flags = {
    check: Flags.string({
      options: ['ready'],
      helpValue: 'ready',
      env: 'NSM_CHECK',
      summary:
        'end with 3 unless each named service (or any, when none is named) is up, with 4 when its identity is refused',
    }),
  }

  async run(): Promise<StatusResult> {
    const { args, flags } = await this.parse(Status)
    const wanted = args.service ?? []
    const status = narrow(await this.askIfRunning(absent, (daemon) => daemon.status()), wanted)
    if (flags.check === 'ready') requireReady(status, wanted)
    this.log(statusText(status, { nowMs: this.context.wallMs(), relative: this.context.isTerminal }))
    return status
  }
}

const absent: StatusResult = { apiVersion: 'nsm/status/v1', running: false, connections: [], warnings: [] }

function narrow(status: StatusResult, wanted: readonly string[]): StatusResult {
  if (wanted.length === 0) return status
  return { ...status, connections: status.connections.filter(({ service }) => wanted.includes(service)) }
}

function requireReady(status: StatusResult, wanted: readonly string[]): void {
  const up = status.connections.filter(({ state }) => state === 'up').map(({ service }) => service)
  const missing = wanted.filter((service) => !up.includes(service))
  if (missing.length === 0 && up.length > 0) return
  const refused = status.connections.find(({ state }) => state === 'refused')
  if (refused?.error) throw errorFromData(refused.error)
  const what = missing.length > 0 ? `${missing.join(', ')} is not up` : 'no network service is up'
  throw new NsmError('NOT_READY', what, `nsm connect ${missing.join(' ')}`.trimEnd())
}
