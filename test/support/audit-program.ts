import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openAuditFile } from '../../src/daemon/audit-file.ts'

/* Writes events into the audit log `argv[2]` without an end; whoever started it ends it. */

const [, , path = ''] = process.argv
const audit = openAuditFile({ path, clock: systemClock, log: silentLog, maxBytes: 40_000, keep: 100 })
let count = 0
setInterval(() => {
  for (let i = 0; i < 20; i++) audit.record({ event: 'conn.up', id: `spiffe://a.example/${++count}` })
}, 3)
