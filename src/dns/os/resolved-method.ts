import { targetText } from '../upstream-socket.ts'
import { isStub, readUpstreams, resolvedUpstreams, upstreamsOf, whenChanged } from './host-upstreams.ts'
import { writeJournal, writtenHere } from './journal.ts'
import { repairOnLinux } from './repair.ts'
import { parseResolvConf } from './resolv-conf.ts'
import { flushResolved, isThere, revertLink, setLink } from './resolved-links.ts'
import type { Run } from './run-program.ts'
import type { HostUpstream, SystemDns, SystemDnsSettings, SystemLink } from './system-dns.ts'
import { watchResolvFile } from './watch.ts'

/**
 * Lets systemd-resolved ask us for the names of each service's interface, and for nothing else. The setting goes with the
 * interface, so that a killed process leaves nothing. Told again when resolved has lost it.
 */
export async function installResolved(settings: SystemDnsSettings, run: Run): Promise<SystemDns> {
  const { journalPath, listener, log, resolvConf } = settings
  const previousUpstreams = withoutStub((await readUpstreams(resolvConf)).upstreams)
  const server = targetText(listener)
  let links: readonly SystemLink[] = []
  let isInstalled = false
  const apply = async (wanted: readonly SystemLink[]) => {
    const gone = links.filter((link) => !wanted.some(({ interfaceName }) => interfaceName === link.interfaceName))
    const interfaceNames = [...new Set([...links, ...wanted].map(({ interfaceName }) => interfaceName))]
    await writeJournal(journalPath, { ...(await writtenHere()), method: 'resolved', server, interfaceNames })
    links = wanted
    for (const { interfaceName } of gone) await revertLink(interfaceName, server, run)
    for (const link of wanted) await setLink(link, listener, run).catch((error) => passIfGone(link, error))
    await flushResolved(run)
    log.info('[#] systemd-resolved told', { server, interfaceName: interfaceNames.join(' ') })
  }
  /** An interface that went with its tunnel is told of again when the tunnel is open again; the others do not wait for it. */
  const passIfGone = async ({ interfaceName }: SystemLink, error: unknown) => {
    if (!isInstalled || (await isThere(interfaceName, run))) throw error
    log.debug('an interface is gone and is not told to systemd-resolved', { interfaceName })
  }
  try {
    await apply(settings.links)
  } catch (error) {
    await repairOnLinux(settings, run)
    throw error
  }
  isInstalled = true
  const learn = whenChanged(previousUpstreams, settings.onForeignUpstreams)
  const watch = watchResolvFile({
    path: resolvedUpstreams,
    log,
    isOurs: (text) => {
      const { nameservers } = parseResolvConf(text)
      learn(withoutStub(upstreamsOf(nameservers)))
      return nameservers.includes(listener.address)
    },
    isAnothers: () => false,
    reapply: () => apply(links),
  })
  return {
    method: 'resolved',
    previousUpstreams,
    update: (change) => watch.exclusively(() => apply(change.links)),
    restore: async () => {
      await watch.close()
      await repairOnLinux(settings, run)
    },
  }
}

/** Asked by us, the stub would come to ask us. */
function withoutStub(upstreams: readonly HostUpstream[]): readonly HostUpstream[] {
  return upstreams.filter(({ address }) => !isStub(address))
}
