import { NsmError } from '../../base/errors.ts'
import type { Log } from '../../base/log.ts'
import type { Undo } from '../../base/undo.ts'
import { isTaken } from '../listener.ts'
import { contentOf } from './file-object.ts'
import type { Journal } from './journal.ts'
import { buildResolvConf, parseResolvConf, type ResolvConf } from './resolv-conf.ts'
import { type RestoreResult, restoreResolvFile, writeResolvFile } from './resolv-file.ts'
import { watchResolvFile } from './watch.ts'

/** A resolver of the host. */
export interface HostUpstream {
  readonly address: string
  readonly port: number
}

/** The system's resolver setting while it points to us. */
export interface SystemDns {
  readonly method: 'file'
  /** The resolvers the host had before. */
  readonly previousUpstreams: readonly HostUpstream[]
  /** Changes the search domains that services bring. */
  update(change: { readonly searchDomains: readonly string[] }): Promise<void>
  /** Puts back what was there, if the setting is still ours. */
  readonly restore: Undo
}

/** What an installation is made from. */
export interface SystemDnsSettings {
  readonly resolvConf: string
  readonly journalPath: string
  readonly listener: HostUpstream
  readonly searchDomains: readonly string[]
  readonly log: Log
  /** Told the resolvers another program wrote into the file while it was ours. */
  readonly onForeignUpstreams?: (upstreams: readonly HostUpstream[]) => void
}

/** The resolvers behind systemd-resolved's stub: the stub itself may come to ask us. */
const resolvedUpstreams = '/run/systemd/resolve/resolv.conf'
const resolvedStubs = ['127.0.0.53', '127.0.0.54']
/** Addresses this resolver listens on: found in an old file they lead nowhere. */
const ownAddresses = /^127\.0\.0\.5[5-9]$/

/** The host's own resolvers and search domains; without a file there are none. */
export async function readUpstreams(
  resolvConfPath: string,
  behindStub = resolvedUpstreams,
): Promise<{ readonly upstreams: readonly HostUpstream[]; readonly searchDomains: readonly string[] }> {
  const { nameservers, searchDomains } = await readConf(resolvConfPath)
  const onlyStub = nameservers.length > 0 && nameservers.every((address) => resolvedStubs.includes(address))
  const behind = onlyStub ? (await readConf(behindStub)).nameservers : []
  return { upstreams: upstreamsOf(behind.length > 0 ? behind : nameservers), searchDomains }
}

/**
 * Points the resolver file to our listener (port 53: the file knows no other) and keeps it so while others rewrite it.
 * Throws `USAGE` for another port, `PERMISSION` without the right to write.
 */
export async function installFile(settings: SystemDnsSettings): Promise<SystemDns> {
  const { resolvConf: path, journalPath, listener, log } = settings
  if (listener.port !== 53) {
    throw new NsmError('USAGE', `${path} cannot name port ${listener.port}`, 'let the resolver listen on port 53')
  }
  await restoreResolvFile(journalPath, log)
  const previousUpstreams = (await readUpstreams(path)).upstreams
  let searchDomains = settings.searchDomains
  let host = await readConf(path)
  await checkNoOther(path, host, listener)
  let journal: Journal | undefined
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
      const result = await restoreResolvFile(journalPath, log)
      if (result === 'restored') log.info('[#] resolver file put back', { path })
    },
  }
}

/** Takes back what a process left that died; 'left' when somebody else has changed the file since. */
export async function repairFile(settings: {
  readonly journalPath: string
  readonly log: Log
}): Promise<RestoreResult> {
  const result = await restoreResolvFile(settings.journalPath, settings.log)
  if (result === 'restored') settings.log.info('[#] resolver file put back', { path: settings.journalPath })
  return result
}

/**
 * A file that points to another nsm that still listens belongs to it: taking it over would lose the host's own resolvers
 * when both have left. Where nobody listens any more, or we do, the file is a leftover. Throws `CONFLICT`.
 */
async function checkNoOther(path: string, host: ResolvConf, listener: HostUpstream): Promise<void> {
  const [other = ''] = host.nameservers
  if (!isAnothers(host, listener) || !(await isTaken({ address: other, port: listener.port }))) return
  throw new NsmError(
    'CONFLICT',
    `${path} points to another nsm, which listens on ${other}`,
    'disconnect that one first, or connect with --dns off',
  )
}

function isAnothers({ isOurs, nameservers: [first = ''] }: ResolvConf, listener: HostUpstream): boolean {
  return isOurs && ownAddresses.test(first) && first !== listener.address
}

async function readConf(path: string): Promise<ResolvConf> {
  return parseResolvConf((await contentOf(path))?.toString('utf8') ?? '')
}

function upstreamsOf(addresses: readonly string[]): readonly HostUpstream[] {
  return addresses.filter((address) => !ownAddresses.test(address)).map((address) => ({ address, port: 53 }))
}
