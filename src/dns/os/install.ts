import { toNsmError } from '../../base/errors.ts'
import { chooseMethod } from './choose-method.ts'
import { installFile } from './file-method.ts'
import { probeDns } from './probe-dns.ts'
import { repairOnLinux } from './repair.ts'
import { installRecord } from './resolvconf-method.ts'
import { installResolved } from './resolved-method.ts'
import { type Run, runProgram } from './run-program.ts'
import type { ChosenSystemDns, SystemDnsSettings } from './system-dns.ts'

export { repairOnLinux }

/**
 * Makes the system ask us, by the setting that goes away soonest by itself; journal first. Where that fails the resolver
 * file is taken, which every system has. Throws `PERMISSION`, or `CONFLICT` with another nsm.
 */
export async function installOnLinux(settings: SystemDnsSettings, run: Run = runProgram): Promise<ChosenSystemDns> {
  const { log, resolvConf, links } = settings
  await repairOnLinux(settings, run)
  const { method, why } = chooseMethod(await probeDns(resolvConf, links.length > 0, run))
  log.debug('way to set the system resolver chosen', { method, reason: why })
  if (method === 'file') return { ...(await installFile(settings)), why }
  try {
    const installed =
      method === 'resolved' ? await installResolved(settings, run) : await installRecord(settings, method, run)
    return { ...installed, why }
  } catch (error) {
    log.warn('this way to set the system resolver failed, the resolver file is taken', { method, error: `${error}` })
    return { ...(await installFile(settings)), why: `${method} failed: ${toNsmError(error).message}` }
  }
}
