import { execFileSync } from 'node:child_process'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { keepingClock, sleep } from '../../src/base/clock.ts'
import { createLog } from '../../src/base/log.ts'
import { openAuditFile } from '../../src/daemon/audit-file.ts'
import { lastEvents } from '../../src/daemon/audit-read.ts'
import { verifyAudit } from '../../src/daemon/audit-verify.ts'

/* In a mount namespace of its own: fills a disk of 96 KiB, makes room again, and prints what became of the audit log. */

const [, , dir = ''] = process.argv
execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96k,mode=0700', 'none', dir])
const path = join(dir, 'audit.jsonl')
const lines: string[] = []
const log = createLog({ level: 'info', format: 'text', write: (line) => lines.push(line), wallMs: Date.now })
/** A disk is tried again at once. */
const clock = { ...keepingClock, after: (_ms: number, action: () => void) => keepingClock.after(1, action) }
const audit = openAuditFile({ path, clock, log })
const until = async (holds: () => boolean) => {
  while (!holds()) await sleep(keepingClock, 5)
}
const said = (sentence: string) => lines.some((line) => line.includes(sentence))

writeFileSync(join(dir, 'ballast'), Buffer.alloc(64 * 1024))
let count = 0
const record = () => audit.record({ event: 'conn.up', id: `spiffe://a.example/${++count}` })
for (let i = 0; i < 400; i++) record()
await until(() => said('cannot be written'))
for (let i = 0; i < 12_000; i++) record()
const whileFull = await verifyAudit(path)
rmSync(join(dir, 'ballast'))
execFileSync('mount', ['-o', 'remount,size=8m', dir])
await until(() => said('is written again'))
await audit.close()
const lost = (await lastEvents([path], 100_000)).filter(({ reason }) => reason === 'EVENTS_LOST')
const told = lost.reduce((sum, event) => sum + Number(event['lost']), 0)
const { problem, lines: kept } = await verifyAudit(path)
const others = (await lastEvents([path], 100_000)).filter(({ event }) => event !== 'conn.up').length
const answer = {
  whileFull: whileFull.problem ?? 'whole',
  problem: problem ?? 'whole',
  told,
  others,
  all: kept - others + told,
  count,
}
process.stdout.write(JSON.stringify({ ...answer, exists: existsSync(path) }))
