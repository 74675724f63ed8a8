import { NsmError } from '../../base/errors.ts'
import { readConf, readUpstreams, upstreamsOf } from './host-upstreams.ts'
import type { FileJournal } from './journal.ts'
import { checkNoOther, isAnothers } from './other-nsm.ts'
import { repairOnLinux } from './repair.ts'
import { buildResolvConf, parseResolvConf } from './resolv-conf.ts'
import { writeResolvFile } from './resolv-file.ts'
import type { SystemDns, SystemDnsSettings } from './system-dns.ts'
import { watchResolvFile } from './watch.ts'

/**
 * Points the resolver file to our listener (port 53: the file knows no other) and keeps it so while others rewrite it.
 * Throws `USAGE` for another port, `PERMISSION` without the right to write, `CONFLICT` with another nsm.
 */
export async function installFile(settings: SystemDnsSettings): Promise<SystemDns> {
  const { resolvConf: path, journalPath, listener, log } = settings
  if (listener.port !== 53) {
    throw new NsmError('USAGE', `${path} cannot name port ${listener.port}`, 'let the resolver listen on port 53')
  }
  const previousUpstreams = (await readUpstreams(path)).upstreams
  let { searchDomains } = settings
  let host = await readConf(path)
  await checkNoOther(path, host, listener)
  let journal: FileJournal | undefined
  const apply = async () => {
    const text = buildResolvConf(host, { address: listener.address, searchDomains })
    journal = await writeResolvFile({ path, journalPath }, text, journal)
    log.info('[#] resolver file written', { path, address: listener.address })
  }
  await apply()
  const watch = watchResolvFile({
    path,
    log,
    isOurs: (text) => journal?.ours[0] === text,
    isAnothers: (text) => isAnothers(parseResolvConf(text), listener),
    reapply: async (text) => {
      host = parseResolvConf(text)
      journal = undefined
      settings.onForeignUpstreams?.(upstreamsOf(host.nameservers))
      await apply()
    },
  })
  return {
    method: 'file',
    previousUpstreams,
    update: (change) =>
      watch.exclusively(async () => {
        searchDomains = change.searchDomains
        await apply()
      }),
    restore: async () => {
      await watch.close()
      await repairOnLinux(settings)
    },
  }
}
