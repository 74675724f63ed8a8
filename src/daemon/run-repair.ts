import { existsSync } from 'node:fs'
import { systemClock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import { createLog } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { repairMachine } from './repair.ts'

/**
 * Puts the machine back after the background process was killed; does nothing when another one has started since, or when
 * its directories went with it.
 */
export async function runRepair(settings: Settings): Promise<void> {
  if (!existsSync(settings.runtimeDir)) return
  const write = (line: string) => void process.stderr.write(`${line}\n`)
  const log = createLog({ level: settings.logLevel, format: 'json', write, wallMs: systemClock.wallMs })
  try {
    await repairMachine(settings, log)
  } catch (thrown) {
    const error = toNsmError(thrown)
    log.error('the machine could not be repaired', { code: error.code, reason: error.message })
    process.exitCode = error.exitCode
  }
}
