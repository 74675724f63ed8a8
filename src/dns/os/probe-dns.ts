import { asksResolved, type DnsProbes, isResolvconfs } from './choose-method.ts'
import { contentOf, mustKeepInode, realPathOf } from './file-object.ts'
import type { Run } from './run-program.ts'

/** The file that the system's own resolver library reads [resolv.conf(5)]. */
const systemFile = '/etc/resolv.conf'

/** Finds out what `chooseMethod` wants to know; a program is asked only where a file points to it. */
export async function probeDns(resolvConfPath: string, hasLinks: boolean, run: Run): Promise<DnsProbes> {
  const resolvConf = (await contentOf(resolvConfPath))?.toString('utf8')
  const nsswitch = (await contentOf('/etc/nsswitch.conf'))?.toString('utf8') ?? ''
  const isSystemFile = resolvConfPath === systemFile
  const hostsSources = readHostsSources(nsswitch)
  const usesResolved = isSystemFile && asksResolved({ resolvConf, hostsSources })
  return {
    isSystemFile,
    resolvConf,
    keepsInode: resolvConf !== undefined && (await mustKeepInode(resolvConfPath)),
    realPath: await realPathOf(resolvConfPath),
    hostsSources,
    resolvedVersion: usesResolved ? await resolvedVersion(run) : undefined,
    resolvconf: isSystemFile && isResolvconfs(resolvConf ?? '') ? await resolvconfKind(run) : undefined,
    hasLinks,
  }
}

/** The words of the last `hosts:` line, actions in brackets left out [nsswitch.conf(5)]. */
export function readHostsSources(nsswitch: string): readonly string[] {
  const line = nsswitch
    .split('\n')
    .map((text) => text.replace(/#.*/, ''))
    .findLast((text) => /^\s*hosts:/.test(text))
  const words = line?.replace(/^\s*hosts:/, '').replace(/\[[^\]]*\]/g, ' ')
  return words?.split(/\s+/).filter((word) => word !== '') ?? []
}

/** The first question also starts a resolved that is started on demand. */
async function resolvedVersion(run: Run): Promise<number | undefined> {
  const answers = await run('resolvectl', ['dns'])
  if (!answers.ok) return undefined
  const { stdout } = await run('resolvectl', ['--version'])
  const version = /^systemd (\d+)/.exec(stdout)?.[1]
  return version === undefined ? undefined : Number(version)
}

async function resolvconfKind(run: Run): Promise<DnsProbes['resolvconf']> {
  const { ok, stdout } = await run('resolvconf', ['--version'])
  if (ok && stdout.startsWith('openresolv')) return 'openresolv'
  return ok && /^Debian resolvconf/.test(stdout) ? 'debian' : undefined
}
