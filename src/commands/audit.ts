import { existsSync } from 'node:fs'
import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { keepingClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { followEvents, lastEvents } from '../daemon/audit-read.ts'
import { verifyAudit } from '../daemon/audit-verify.ts'
import { auditPath, serveAuditPath } from '../daemon/paths.ts'
import { type AuditVerifyResult, auditEventText, auditVerdictText, problemText } from '../ui/audit-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm audit` answers. */
interface AuditResult {
  readonly apiVersion: 'nsm/audit/v1'
  readonly events: readonly Readonly<Record<string, unknown>>[]
}

/** `nsm audit`: reads the audit logs of this machine; needs no other process. */
export class Audit extends NsmCommand {
  static override description =
    'Shows who got an identity, who was refused, who was connected and by what rule. Without FILE: the logs of the server\n' +
    'and of the background process in the state folder. With --verify it exits with 3 when a log was changed or cut.'
  static override examples = [
    'nsm audit',
    'nsm audit --follow',
    'nsm audit --verify',
    'nsm audit --verify --witness HASH /var/lib/nsm/serve-audit.jsonl',
  ]
  static override args = {
    file: Args.string({ ignoreStdin: true, description: 'an audit log' }),
  }
  static override flags = {
    verify: Flags.boolean({
      default: false,
      env: 'NSM_AUDIT_VERIFY',
      summary: 'check that no line was changed, added or cut',
    }),
    witness: Flags.string({
      helpValue: 'HASH',
      env: 'NSM_AUDIT_WITNESS',
      summary: 'as --verify, and the head of an earlier check must still be in the log',
    }),
    last: Flags.integer({
      default: 100,
      min: 1,
      max: 100_000,
      helpValue: 'COUNT',
      env: 'NSM_AUDIT_LAST',
      summary: 'how many events to show, 100 when nothing is said',
    }),
    follow: Flags.boolean({
      default: false,
      env: 'NSM_AUDIT_FOLLOW',
      exclusive: ['json', 'verify'],
      summary: 'show what is written from now on too, until a signal',
    }),
  }

  async run(): Promise<AuditResult | AuditVerifyResult> {
    const { args, flags } = await this.parse(Audit)
    const paths = args.file === undefined ? this.#ownLogs() : [args.file]
    const { verify, witness, last } = flags
    if (verify || witness !== undefined) return this.#verify(paths, witness)
    const shown = await this.#show(paths, last)
    if (flags.follow) await Promise.all(paths.map((path) => this.#follow(path)))
    return shown
  }

  async #verify(paths: readonly string[], witness: string | undefined): Promise<AuditVerifyResult> {
    if (paths.length === 0) throw new NsmError('USAGE', 'there is no audit log in the state folder', 'name its FILE')
    if (witness !== undefined) checkWitness(witness, paths)
    const logs = await Promise.all(paths.map((path) => verifyAudit(path, witness)))
    const broken = logs.flatMap(({ problem }) => (problem ? [problemText(problem)] : []))
    if (broken.length > 0) {
      throw new NsmError(
        'NOT_READY',
        `the audit log is not whole: ${broken.join('; ')}`,
        'keep a copy and find out who',
      )
    }
    const result: AuditVerifyResult = { apiVersion: 'nsm/audit/v1', logs }
    this.log(auditVerdictText(result))
    return result
  }

  async #show(paths: readonly string[], count: number): Promise<AuditResult> {
    const events = await lastEvents(paths, count)
    if (events.length > 0) this.log(events.map(auditEventText).join('\n'))
    return { apiVersion: 'nsm/audit/v1', events }
  }

  async #follow(path: string): Promise<void> {
    const around = { clock: keepingClock, signal: this.context.signal }
    for await (const event of followEvents(path, around)) this.log(auditEventText(event))
  }

  #ownLogs(): readonly string[] {
    const { settings } = this.context
    return [serveAuditPath(settings), auditPath(settings)].filter(existsSync)
  }
}

/** What is given by mistake must not look like a changed log. */
function checkWitness(witness: string, paths: readonly string[]): void {
  if (!/^[0-9a-f]{64}$/.test(witness)) {
    throw new NsmError('USAGE', 'a witness has 64 hexadecimal digits', 'give the head that nsm audit --verify printed')
  }
  if (paths.length > 1) throw new NsmError('USAGE', 'a witness is of one log, and there are two', 'name its FILE')
}
