import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import {
  chmod,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { silentLog } from '../../../src/base/log.ts'
import { readUpstreams } from '../../../src/dns/os/host-upstreams.ts'
import {
  installSystemDns,
  readSystemUpstreams,
  repairSystemDns,
  type SystemDnsSettings,
} from '../../../src/dns/os/open.ts'
import { buildResolvConf, parseResolvConf } from '../../../src/dns/os/resolv-conf.ts'
import { scratchDir } from '../../support/scratch.ts'

const listener = { address: '127.0.0.55', port: 53 }
const original =
  '# of the host\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\nsearch lan.example\noptions ndots:2 rotate\n'

async function settingsIn(dir: string): Promise<SystemDnsSettings & { readonly journalPath: string }> {
  await mkdir(join(dir, 'etc'), { recursive: true })
  await mkdir(join(dir, 'state'), { recursive: true })
  return {
    resolvConf: join(dir, 'etc', 'resolv.conf'),
    journalPath: join(dir, 'state', 'dns.json'),
    listener,
    searchDomains: ['svc.internal'],
    links: [],
    log: silentLog,
  }
}

describe('parseResolvConf', () => {
  test.each([
    ['nameserver 1.2.3.4\n', ['1.2.3.4'], []],
    ['nameserver\t::1\nnameserver fe80::1%eth0\n', ['::1', 'fe80::1'], []],
    ['  nameserver   1.2.3.4   # x\n;nameserver 5.6.7.8\n', ['1.2.3.4'], []],
    ['nameserver none\nsearch a b\ndomain c\n', [], ['c']],
    ['', [], []],
  ])('reads %j', (text, nameservers, searchDomains) => {
    expect(parseResolvConf(text)).toMatchObject({ nameservers, searchDomains })
  })
})

describe('buildResolvConf', () => {
  test('keeps search and options of the host and names one server', () => {
    const text = buildResolvConf(parseResolvConf(original), { address: '127.0.0.55', searchDomains: ['svc.internal.'] })
    expect(text.split('\n').filter((line) => !line.startsWith('#'))).toEqual([
      'nameserver 127.0.0.55',
      'search lan.example svc.internal',
      'options ndots:2 rotate',
      '',
    ])
    expect(parseResolvConf(text).isOurs).toBe(true)
  })

  test('writes at most six search domains and 256 characters', () => {
    const many = Array.from({ length: 9 }, (_, i) => `d${i}.example`)
    const long = Array.from({ length: 6 }, (_, i) => `${'x'.repeat(60)}.d${i}`)
    for (const searchDomains of [many, long]) {
      const text = buildResolvConf(parseResolvConf(''), { address: '127.0.0.55', searchDomains })
      const search = /^search (.*)$/m.exec(text)?.[1] ?? ''
      expect(search.split(' ').length).toBeLessThanOrEqual(6)
      expect(search.length).toBeLessThanOrEqual(256)
    }
  })

  test('lets no line end into the file', () => {
    const text = buildResolvConf(parseResolvConf(''), {
      address: '127.0.0.55',
      searchDomains: ['a\nnameserver 6.6.6.6'],
    })
    expect(parseResolvConf(text).nameservers).toEqual(['127.0.0.55'])
  })
})

describe('readSystemUpstreams', () => {
  test('gives the host servers on port 53, and none without a file', async () => {
    const settings = await settingsIn(await scratchDir())
    expect(await readSystemUpstreams(settings.resolvConf)).toEqual({ upstreams: [], searchDomains: [] })
    await writeFile(settings.resolvConf, original)
    expect(await readSystemUpstreams(settings.resolvConf)).toEqual({
      upstreams: ['192.0.2.53', '2001:db8::53'].map((address) => ({ address, port: 53 })),
      searchDomains: ['lan.example'],
    })
  })

  test('looks behind the stub of systemd-resolved, and leaves our own listener out', async () => {
    const dir = await scratchDir()
    await writeFile(join(dir, 'stub'), 'nameserver 127.0.0.53\n')
    await writeFile(join(dir, 'real'), 'nameserver 192.0.2.1\nnameserver 127.0.0.55\n')
    expect((await readUpstreams(join(dir, 'stub'), join(dir, 'real'))).upstreams).toEqual([
      { address: '192.0.2.1', port: 53 },
    ])
    expect((await readUpstreams(join(dir, 'stub'), join(dir, 'none'))).upstreams).toEqual([
      { address: '127.0.0.53', port: 53 },
    ])
  })
})

/** What is at a path, for comparing before and after. */
async function picture(path: string): Promise<unknown> {
  const found = await lstat(path).catch(() => undefined)
  if (!found) return 'absent'
  if (found.isSymbolicLink())
    return { link: await readlink(path), behind: await picture(join(path, '..', await readlink(path))) }
  return { mode: found.mode & 0o777, content: await readFile(path, 'utf8') }
}

type Prepare = (path: string) => Promise<unknown>
const startings: readonly [string, Prepare][] = [
  ['a plain file', (path) => writeFile(path, original)],
  ['a file of odd mode and bytes', (path) => writeFile(path, Buffer.from([0xff, 0, 10, 0xc3]), { mode: 0o640 })],
  ['an empty file', (path) => writeFile(path, '')],
  ['nothing', async () => {}],
  [
    'a symbolic link',
    async (path) => {
      await writeFile(`${path}.real`, original)
      await symlink('resolv.conf.real', path)
    },
  ],
  ['a dangling symbolic link', (path) => symlink('nowhere', path)],
]

describe('installSystemDns', () => {
  test.each(startings)('on %s: points to us, and restore brings back every byte', async (_what, prepare) => {
    const settings = await settingsIn(await scratchDir())
    await prepare(settings.resolvConf)
    const before = await picture(settings.resolvConf)
    const system = await installSystemDns(settings)
    expect(parseResolvConf(await readFile(settings.resolvConf, 'utf8')).nameservers).toEqual(['127.0.0.55'])
    expect((await stat(settings.resolvConf)).mode & 0o777).toBe(0o644)
    await system.update({ searchDomains: ['other.internal'], links: [] })
    expect(await readFile(settings.resolvConf, 'utf8')).toContain('other.internal')
    await system.restore()
    await system.restore()
    expect(await picture(settings.resolvConf)).toEqual(before)
    expect((await readdir(join(settings.resolvConf, '..'))).filter((name) => name.includes('.nsm-'))).toEqual([])
    expect(await picture(settings.journalPath)).toBe('absent')
  })

  test.each(startings)('on %s: a repair after a crash brings back every byte', async (_what, prepare) => {
    const settings = await settingsIn(await scratchDir())
    await prepare(settings.resolvConf)
    const before = await picture(settings.resolvConf)
    const crashed = await installSystemDns(settings)
    const journal = await readFile(settings.journalPath)
    await crashed.restore()
    await rm(settings.resolvConf, { force: true })
    await prepare(settings.resolvConf).catch(() => {})
    await installAndForget(settings)
    expect(await repairSystemDns(settings)).toBe('restored')
    expect(await picture(settings.resolvConf)).toEqual(before)
    expect(await repairSystemDns(settings)).toBe('nothing')
    expect(JSON.parse(journal.toString())).toMatchObject({ version: 1, pid: process.pid })
  })

  test('leaves the file alone when another program has written it since', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    await installAndForget(settings)
    await writeFile(settings.resolvConf, 'nameserver 198.51.100.1\n')
    expect(await repairSystemDns(settings)).toBe('left')
    expect(await readFile(settings.resolvConf, 'utf8')).toBe('nameserver 198.51.100.1\n')
    expect(await picture(settings.journalPath)).toBe('absent')
  })

  test('puts the file back when another program has removed it', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    await installAndForget(settings)
    await rm(settings.resolvConf)
    expect(await repairSystemDns(settings)).toBe('restored')
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(original)
  })

  test('over a change that was never taken back keeps the host file as the one to restore', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    await installAndForget(settings)
    const system = await installSystemDns(settings)
    expect(system.previousUpstreams.map(({ address }) => address)).toEqual(['192.0.2.53', '2001:db8::53'])
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(original)
  })

  test('never restores a line that names our own listener', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, '# nsm: 127.0.0.55 answers\nnameserver 127.0.0.55\nsearch x.example\n')
    const system = await installSystemDns(settings)
    expect(system.previousUpstreams).toEqual([])
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe('search x.example\n')
  })

  test.each([
    ['no JSON', '{'],
    ['another shape', '{"version":1,"path":"relative"}'],
    ['a newer version', '{"version":2}'],
    ['of a way that is not known', '{"version":1,"method":"delegate","pid":1}'],
    ['of links without a server', '{"version":1,"method":"resolved","pid":1,"interfaceNames":["nsm0"]}'],
    [
      'of links that are no names',
      '{"version":1,"method":"resolved","pid":1,"server":"127.0.0.55","interfaceNames":[1]}',
    ],
    ['of a record without a file', '{"version":1,"method":"openresolv","pid":1,"server":"127.0.0.55","path":"here"}'],
    ['of nobody', '{"version":1,"method":"resolved","server":"127.0.0.55","interfaceNames":[]}'],
  ])('drops a journal that is %s and touches nothing', async (_what, text) => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    await writeFile(settings.journalPath, text, { mode: 0o600 })
    expect(await repairSystemDns(settings)).toBe('left')
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(original)
    expect(await repairSystemDns(settings)).toBe('nothing')
  })

  test('writes its text again after a foreign rewrite, learns the new servers and restores the foreign file', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    const learned = vi.fn()
    const system = await installSystemDns({ ...settings, onForeignUpstreams: learned })
    const foreign = 'nameserver 198.51.100.1\nsearch new.example\n'
    await writeFile(`${settings.resolvConf}.other`, foreign)
    await rename(`${settings.resolvConf}.other`, settings.resolvConf)
    await expect.poll(() => learned.mock.calls).toContainEqual([[{ address: '198.51.100.1', port: 53 }]])
    await expect.poll(() => readFile(settings.resolvConf, 'utf8')).toContain('search new.example svc.internal')
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(foreign)
  })

  test('gives up against a program that rewrites the file again and again', async () => {
    const { system, settings, foreign } = await wornOut()
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(foreign)
  })

  test('after giving way takes the file for a service that comes later, and restores what the other program wrote', async () => {
    const { system, settings, foreign } = await wornOut()
    await system.update({ searchDomains: ['green.internal'], links: [] })
    const text = await readFile(settings.resolvConf, 'utf8')
    expect(parseResolvConf(text)).toMatchObject({ nameservers: ['127.0.0.55'], searchDomains: ['green.internal'] })
    await writeFile(settings.resolvConf, foreign)
    await expect.poll(() => readFile(settings.resolvConf, 'utf8')).toBe(text)
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(foreign)
  })

  test('after a power loss between journal and change finds nothing to do and says nothing', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    const system = await installSystemDns(settings)
    const journal = await readFile(settings.journalPath)
    await system.restore()
    await writeFile(settings.journalPath, journal, { mode: 0o600 })
    await writeFile(`${settings.resolvConf}.nsm-999999999`, 'half a fi')
    const warn = vi.fn()
    const log = { ...silentLog, warn }
    expect(await repairSystemDns({ journalPath: settings.journalPath, log })).toBe('nothing')
    expect(warn).not.toHaveBeenCalled()
    expect(await readdir(join(settings.resolvConf, '..'))).toEqual(['resolv.conf'])
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(original)
  })

  const another = buildResolvConf(parseResolvConf(original), { address: '127.0.0.59', searchDomains: ['red.internal'] })

  test('refuses to take the file from another nsm that still listens', async (context) => {
    const holder = createSocket('udp4')
    holder.bind({ address: '127.0.0.59', port: 53, exclusive: true })
    const bound = await once(holder, 'listening').catch(() => undefined)
    context.skip(!bound, 'needs the right to listen on port 53 of 127.0.0.59, and that it is free')
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, another)
    const refused = installSystemDns(settings)
    await expect(refused).rejects.toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('127.0.0.59') })
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(another)
    await new Promise<void>((resolve) => holder.close(resolve))
    const system = await installSystemDns(settings)
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).not.toContain('127.0.0.5')
  })

  test('leaves the file to another nsm that takes it, and does not fight', async () => {
    const settings = await settingsIn(await scratchDir())
    await writeFile(settings.resolvConf, original)
    const warn = vi.fn()
    const system = await installSystemDns({ ...settings, log: { ...silentLog, warn } })
    await writeFile(settings.resolvConf, another)
    await vi.waitFor(() => expect(warn).toHaveBeenCalledOnce())
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(another)
    await system.update({ searchDomains: ['green.internal'], links: [] })
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(another)
    await system.restore()
    expect(await readFile(settings.resolvConf, 'utf8')).toBe(another)
  })

  test('refuses a listener the file cannot name', async () => {
    const settings = await settingsIn(await scratchDir())
    const attempt = installSystemDns({ ...settings, listener: { address: '127.0.0.1', port: 5353 } })
    await expect(attempt).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('refuses a directory, and nothing of it is read', async () => {
    const settings = await settingsIn(await scratchDir())
    await mkdir(settings.resolvConf)
    await writeFile(join(settings.resolvConf, 'file'), 'nameserver 192.0.2.1\n')
    expect(await readSystemUpstreams(settings.resolvConf)).toEqual({ upstreams: [], searchDomains: [] })
    const error = { code: 'CONFLICT', message: expect.stringContaining('is a directory') }
    await expect(installSystemDns(settings)).rejects.toMatchObject(error)
    expect(await readdir(settings.resolvConf)).toEqual(['file'])
    expect(await picture(settings.journalPath)).toBe('absent')
  })

  test.skipIf(process.getuid?.() === 0)(
    'without the right to write says so and leaves no journal (skipped as root, who may write anywhere)',
    async () => {
      const settings = await settingsIn(await scratchDir())
      await writeFile(settings.resolvConf, original)
      await chmod(join(settings.resolvConf, '..'), 0o555)
      await expect(installSystemDns(settings)).rejects.toMatchObject({ code: 'PERMISSION' })
      expect(await picture(settings.journalPath)).toBe('absent')
    },
  )
})

/** Installs and dies: nothing but the journal and the file stay, as after SIGKILL. */
async function installAndForget(settings: SystemDnsSettings): Promise<void> {
  const quiet = await scratchDir()
  const system = await installSystemDns(settings)
  const [journal, text] = [await readFile(settings.journalPath), await readFile(settings.resolvConf)]
  await rename(settings.journalPath, join(quiet, 'journal'))
  await system.restore()
  await writeFile(settings.journalPath, journal, { mode: 0o600 })
  expect(await readFile(settings.resolvConf)).toEqual(text)
}

/** An installation that has given way to a program that writes `foreign` again and again. */
async function wornOut() {
  const settings = await settingsIn(await scratchDir())
  await writeFile(settings.resolvConf, original)
  const warnings: string[] = []
  const log = { ...silentLog, warn: (sentence: string) => void warnings.push(sentence) }
  const system = await installSystemDns({ ...settings, log })
  const foreign = 'nameserver 198.51.100.1\n'
  // All in no time, for what counts is how often.
  vi.spyOn(performance, 'now').mockReturnValue(performance.now())
  onTestFinished(() => void vi.restoreAllMocks())
  while (warnings.length === 0) {
    if ((await readFile(settings.resolvConf, 'utf8')) !== foreign) await writeFile(settings.resolvConf, foreign)
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(warnings.join()).toContain('left to it')
  return { system, settings, foreign }
}
