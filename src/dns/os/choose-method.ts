import { namesOnlyStub } from './host-upstreams.ts'
import { parseResolvConf } from './resolv-conf.ts'
import type { MethodName } from './system-dns.ts'

/** What was found out about a machine; plain data, so that every odd machine is a row of a test. */
export interface DnsProbes {
  /** True for the file that the system itself reads. */
  readonly isSystemFile: boolean
  /** Text of the resolver file, links followed; undefined when there is none. */
  readonly resolvConf: string | undefined
  /** True when the file is a mount or another namespace's: what writes it runs somewhere else. */
  readonly keepsInode: boolean
  /** Where the file's links lead. */
  readonly realPath: string
  /** Words of the `hosts:` line [nsswitch.conf(5)]. */
  readonly hostsSources: readonly string[]
  /** Major version of a systemd-resolved that answers. */
  readonly resolvedVersion: number | undefined
  /** Which program of that name is there. */
  readonly resolvconf: 'openresolv' | 'debian' | undefined
  /** True when every service has an interface of its own. */
  readonly hasLinks: boolean
}

/**
 * [systemd issue 25397] Before it, queries of a link are bound to the link, and a server on loopback is never reached.
 * There the file is taken, which resolved itself follows.
 */
const loopbackServerVersion = 252

/** A way to make the system ask us, and what it was chosen for, in words for a person. */
export interface Choice {
  readonly method: MethodName
  readonly why: string
}

/** Chooses how to make the system ask us: by the setting whose life is the shortest. */
export function chooseMethod(found: DnsProbes): Choice {
  if (!found.isSystemFile) return file('another resolver file than the system reads is set')
  if (found.resolvConf === undefined) return file('the machine has no resolver file')
  if (found.keepsInode) return file('the resolver file is a mount or of another name space')
  if (asksResolved(found)) return throughResolved(found)
  if (!isResolvconfs(found.resolvConf)) return file('nothing that nsm knows keeps the resolver file')
  if (found.resolvconf === 'openresolv') {
    return { method: 'openresolv', why: 'openresolv makes the resolver file of records' }
  }
  if (found.resolvconf !== 'debian') return file('resolvconf made the resolver file, and cannot be asked')
  if (found.realPath !== debianFile) return file(`the resolver file does not lead to ${debianFile}`)
  return { method: 'resolvconf', why: 'resolvconf of Debian makes the resolver file of records' }
}

function throughResolved({ hasLinks, resolvedVersion }: DnsProbes): Choice {
  if (resolvedVersion === undefined) return file('systemd-resolved is asked for names, and cannot be told anything')
  if (resolvedVersion < loopbackServerVersion) {
    return file(`systemd-resolved ${resolvedVersion} reaches no server on loopback for an interface`)
  }
  if (!hasLinks) return file('a service has no interface that systemd-resolved could be told of')
  return { method: 'resolved', why: `programs ask systemd-resolved ${resolvedVersion}` }
}

function file(why: string): Choice {
  return { method: 'file', why }
}

/** Without the link to it, Debian's program writes a file that nobody reads. */
const debianFile = '/run/resolvconf/resolv.conf'

/** True when programs of this machine ask resolved: whatever the header of the file says, what counts is who is asked. */
export function asksResolved(found: Pick<DnsProbes, 'resolvConf' | 'hostsSources'>): boolean {
  const [resolve, dns] = ['resolve', 'dns'].map((source) => found.hostsSources.indexOf(source))
  const isFirst = resolve !== undefined && resolve >= 0 && (dns === -1 || resolve < (dns ?? -1))
  return isFirst || namesOnlyStub(parseResolvConf(found.resolvConf ?? ''))
}

/** True for a file whose leading comments say that resolvconf wrote it. */
export function isResolvconfs(text: string): boolean {
  const lines = text.split('\n')
  const firstOther = lines.findIndex((line) => !line.startsWith('#'))
  return lines.slice(0, firstOther < 0 ? lines.length : firstOther).some((line) => /\bresolvconf\b/.test(line))
}
