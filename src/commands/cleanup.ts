import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm cleanup` prints. */
export interface CleanupResult {
  readonly apiVersion: 'nsm/cleanup/v1'
  readonly repaired: readonly string[]
}

/** `nsm cleanup`: ends what runs, then takes back what a killed process left. */
export class Cleanup extends NsmCommand {
  static override description = 'Connections that still run are closed first. Running it twice is no failure.'
  static override examples = ['nsm cleanup']

  async run(): Promise<CleanupResult> {
    await this.parse(Cleanup)
    const left = await this.#leaveAll()
    const { repaired } = await this.context.repairMachine(this.context.settings, this.processLog('warn'))
    const result: CleanupResult = { apiVersion: 'nsm/cleanup/v1', repaired: [...left, ...repaired] }
    this.log(result.repaired.length === 0 ? '# nothing was left behind' : result.repaired.join('\n'))
    return result
  }

  async #leaveAll(): Promise<readonly string[]> {
    const request = { services: [], force: true }
    const left = await this.askIfRunning(undefined, (daemon) => daemon.disconnect(request, this.context.signal))
    return (left?.disconnected ?? []).map((service) => `${service}  disconnected`)
  }
}
