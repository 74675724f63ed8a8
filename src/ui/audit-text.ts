import { printable } from '../base/printable.ts'
import type { AuditVerdict } from '../daemon/audit-verify.ts'

/** What `nsm audit --verify` answers. */
export interface AuditVerifyResult {
  readonly apiVersion: 'nsm/audit/v1'
  readonly logs: readonly AuditVerdict[]
}

/** One line per log, and the head to note elsewhere. */
export function auditVerdictText({ logs }: AuditVerifyResult): string {
  return logs.map(verdictText).join('\n')
}

function verdictText({ path, lines, firstSeq, lastSeq, head, repairs, problem }: AuditVerdict): string {
  if (problem) return `${path}  BROKEN  ${problemText(problem)}`
  const say = repairs === 1 ? 'line says' : 'lines say'
  const repaired = repairs > 0 ? `\n# ${repairs} ${say} that something was repaired: nsm audit` : ''
  if (lines === 0) return `${path}  whole  empty`
  return `${path}  whole  lines ${firstSeq} to ${lastSeq}  head ${head}${repaired}`
}

/** Which line of which file, and what is wrong with it. */
export function problemText({ file, line, why }: NonNullable<AuditVerdict['problem']>): string {
  return line === 0 ? `${file}: ${why}` : `${file} line ${line}: ${why}`
}

/** One event on one line: time, name, who, then the other fields; whoever wrote the log steers no terminal by it. */
export function auditEventText(event: Readonly<Record<string, unknown>>): string {
  const { ts, seq: _seq, prev: _prev, event: name, id, ...fields } = event
  const rest = Object.entries(fields).map(([field, value]) => `${field}=${JSON.stringify(value)}`)
  return printable([ts, name, id ?? '-', ...rest].join('  '))
}
