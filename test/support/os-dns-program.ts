import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { lstat, readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { installSystemDns, readSystemUpstreams, repairSystemDns, type SystemLink } from '../../src/dns/os/open.ts'
import { countSteps } from './die-at-step.ts'

/**
 * A process inside a room: `os-dns-program.ts serve|tunnel|steps|die|try|picture|repair STATE-DIR [STEP]`. serve: the resolver and its place in the
 * system until SIGTERM; steps: kills `die` at every step, repairs, and prints what differs from before.
 */
const [role = '', stateDir = '', step = '0'] = process.argv.slice(2)
const journalPath = join(stateDir, 'resolver-journal.json')
const resolvConf = '/etc/resolv.conf'
const blue: SystemLink = { interfaceName: 'nsm0', searchDomains: ['svc.test'], suffixes: ['svc.test', '10.64.0.0/15'] }
const green: SystemLink = { interfaceName: 'nsm1', searchDomains: [], suffixes: ['green.test'] }
const gone: SystemLink = { interfaceName: 'nsm9', searchDomains: [], suffixes: ['gone.test'] }
const common = { resolvConf, journalPath, log: silentLog }

async function serve(link = blue): Promise<void> {
  const { openDns } = await import('../../src/dns/dns.ts')
  const { listenCandidates } = await import('../../src/dns/own-addresses.ts')
  const { upstreams: defaultUpstreams } = await readSystemUpstreams(resolvConf)
  const dns = await openDns({ clock: systemClock, log: silentLog, listen: listenCandidates, defaultUpstreams })
  dns.setScopes('c1', [{ suffix: 'svc.test', mode: 'exclusive', upstreams: [{ address: '127.0.0.3', port: 53 }] }])
  let isSet = false
  const system = await installSystemDns({
    ...common,
    listener: dns.listening,
    log: { ...silentLog, warn: (sentence) => isSet && say({ warned: sentence }) },
    searchDomains: ['svc.test'],
    links: [link],
    onForeignUpstreams: (upstreams) => say({ foreign: upstreams.map(({ address }) => address) }),
  })
  isSet = true
  dns.setDefaultUpstreams(system.previousUpstreams)
  process.on('SIGTERM', () => void system.restore().then(() => process.exit(0)))
  say({ method: system.method, previous: system.previousUpstreams.map(({ address }) => address) })
  process.stdin.on('data', (data) => {
    if (`${data}`.trim() === 'gone')
      void system.update({ searchDomains: [], links: [gone, green] }).then(() => say('gone'))
    if (`${data}`.trim() === 'green') void system.update({ searchDomains: [], links: [green] }).then(() => say('green'))
    if (`${data}`.trim() === 'queries') say({ queries: dns.status().counters.queries })
  })
}

/** As `serve`, with a tunnel's own interface, which goes with the process. */
async function tunnel(): Promise<void> {
  const { thisMachine } = await import('../../src/connection/machine.ts')
  const settings = { interfaceName: 'nsmt', mtuBytes: 1420 }
  const keys = { privateKey: new Uint8Array(randomBytes(32)), listenPort: 51_999, peers: [] }
  await thisMachine.openTunnel({ ...settings, ...keys }, new AbortController().signal)
  await thisMachine.configureInterface(
    { ...settings, addresses: ['10.64.0.9/32'], routes: ['10.64.0.0/16'] },
    silentLog,
  )
  await serve({ ...blue, interfaceName: 'nsmt' })
}

/** Says how an installation fails. */
async function tryInstall(): Promise<void> {
  const listener = { address: '127.0.0.55', port: 53 }
  const refused = installSystemDns({ ...common, listener, searchDomains: [], links: [] })
  await refused.catch(({ code, next }) => say({ code, next }))
}

/** Every change that nsm makes to the system, until the step at which it dies. */
async function die(): Promise<void> {
  const steps = countSteps(Number(step))
  const { installSystemDns: install } = await import('../../src/dns/os/open.ts')
  const listener = { address: '127.0.0.55', port: 53 }
  const system = await install({ ...common, listener, searchDomains: ['svc.test'], links: [blue] })
  await system.update({ searchDomains: ['green.test'], links: [green] })
  await system.restore()
  say({ method: system.method, steps: steps() })
}

async function steps(): Promise<void> {
  const before = await picture()
  for (let at = 1; ; at++) {
    const child = spawnSync(process.execPath, [import.meta.filename, 'die', stateDir, String(at)], { encoding: 'utf8' })
    const died = child.signal === 'SIGKILL'
    const during = await picture()
    const repaired = at % 8 === 1 ? cleanUp() : await repairSystemDns({ journalPath, log: silentLog })
    const after = await picture()
    const again = await repairSystemDns({ journalPath, log: silentLog })
    const isSame = JSON.stringify(after) === JSON.stringify(before)
    const changed = JSON.stringify(during) !== JSON.stringify(before)
    say({ at, died, changed, repaired, again, isSame, ...(isSame ? {} : { before, during, after }) })
    if (!died) return say({ end: JSON.parse(child.stdout) })
  }
}

/** The command as a person runs it. */
function cleanUp(): string {
  const runtimeDir = join(stateDir, 'run')
  mkdirSync(runtimeDir, { recursive: true })
  const env = { ...process.env, NSM_STATE_DIR: stateDir, NSM_RUNTIME_DIR: runtimeDir }
  const nsm = nsmProgram
  return execFileSync(nsm, ['cleanup'], { env, encoding: 'utf8' }).trim()
}

/** What of the system's resolver can be seen: files with mode, owner and bytes, records, and what resolved says. */
async function picture(): Promise<unknown> {
  const folders = ['/etc', '/run/resolvconf', '/run/resolvconf/interface', '/run/resolvconf/interfaces', '/run/writer']
  const names = await Promise.all(
    folders.map(async (folder) => [folder, await readdir(folder).catch(() => [])] as const),
  )
  const paths = names.flatMap(([folder, files]) => files.map((file) => join(folder, file)))
  const about = paths.filter((path) => /resolv/.test(path)).sort()
  const told = ['dns', 'domain', 'default-route', 'llmnr'].map((verb) => spawnSync('resolvectl', [verb]).stdout)
  const links = told.map((text) => `${text}`.split('\n').filter((line) => line.startsWith('Link')))
  return [(await Promise.all(about.map(look))).filter((seen) => seen !== undefined), links]
}

/** Folders do not count: a program may have made one for its records and keep it, or for a lock and remove it. */
async function look(path: string): Promise<unknown> {
  const found = await lstat(path).catch(() => undefined)
  if (!found) return undefined
  const owner = [path, found.mode, found.uid, found.gid]
  if (found.isSymbolicLink()) return [...owner, await readlink(path), await readFile(path, 'latin1').catch(() => '')]
  return found.isFile() ? [...owner, await readFile(path, 'latin1')] : undefined
}

function say(what: unknown): void {
  process.stdout.write(`${JSON.stringify(what)}\n`)
}

const roles: Readonly<Record<string, () => Promise<void>>> = {
  serve: () => serve(),
  tunnel,
  die,
  try: tryInstall,
  steps,
  picture: async () => say(await picture()),
  repair: async () => say(await repairSystemDns({ journalPath, log: silentLog })),
}
await roles[role]?.()
