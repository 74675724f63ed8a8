import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildInstallers } from '../../scripts/package/installers.ts'
import { targets } from '../../scripts/package/target.ts'

const script = resolve(import.meta.dirname, '../../installers/sign.sh')
const tools = [
  'osslsigncode',
  'openssl',
  'minisign',
  'gpg',
  'rpmsign',
  'rpmbuild',
  'wixl',
  'msibuild',
  'makensis',
  'bsdtar',
]
const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0)
const dir = mkdtempSync(join(tmpdir(), 'nsm-sign-'))
const home = join(dir, 'gnupg')
afterAll(() => {
  if (missing.length === 0) spawnSync('gpgconf', ['--kill', 'all'], { env: { ...process.env, GNUPGHOME: home } })
  rmSync(dir, { recursive: true, force: true })
})

describe.skipIf(missing.length > 0)(`sign.sh (needs ${missing.join(', ') || 'nothing more'})`, () => {
  const release = join(dir, 'release')
  const keys: NodeJS.ProcessEnv = {
    ...process.env,
    GNUPGHOME: home,
    NSM_SIGN_PKCS12: join(dir, 'windows.p12'),
    NSM_SIGN_PASSWORD: join(dir, 'password'),
    NSM_SIGN_GPG: 'release@example.org',
    NSM_SIGN_MINISIGN: join(dir, 'minisign.key'),
  }
  const sign = (files: readonly string[], env = keys) =>
    spawnSync('sh', [script, ...files], { cwd: release, env, encoding: 'utf8' })
  const run = (tool: string, ...words: readonly string[]) =>
    execFileSync(tool, words, { cwd: dir, env: keys, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

  beforeAll(() => {
    makeKeys()
    mkdirSync(release)
    const programs = (['linux-x64', 'win-x64'] as const).flatMap((name) => {
      const target = targets.find((it) => it.name === name)
      if (!target) return []
      mkdirSync(join(dir, name))
      writeFileSync(join(dir, name, target.program), 'program')
      writeFileSync(join(dir, name, 'nsm.cdx.json'), '{}')
      return [{ target, path: join(dir, name, target.program), version: '1.2.3', notices: 'notices' }]
    })
    const beside = { completions: new Map(), manPage: '', licence: 'licence' }
    buildInstallers({ programs, beside, isQuick: true, formats: 'all', dir: release })
    writeFileSync(join(release, 'SHA256SUMS'), 'sums\n')
  })

  function makeKeys(): void {
    writeFileSync(join(dir, 'password'), 'a password')
    const subject = ['-subj', '/CN=nsm test', '-addext', 'extendedKeyUsage=codeSigning']
    run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'k.pem', '-out', 'c.pem', ...subject)
    const out = ['-inkey', 'k.pem', '-in', 'c.pem', '-out', 'windows.p12', '-passout', 'file:password']
    run('openssl', 'pkcs12', '-export', ...out)
    run('minisign', '-G', '-W', '-p', 'minisign.pub', '-s', 'minisign.key')
    mkdirSync(home, { mode: 0o700 })
    run('gpg', '--batch', '--passphrase', '', '--quick-generate-key', 'release@example.org', 'rsa2048', 'sign', 'never')
  }

  test.each(['nsm-1.2.3-win-x64-setup.exe', 'nsm-1.2.3-win-x64.msi'])('signs %s as Windows verifies it', (name) => {
    const path = join(release, name)
    const before = readFileSync(path).length
    expect(sign([name])).toMatchObject({ status: 0, stderr: '' })
    expect(readFileSync(path).length).toBeGreaterThan(before)
    expect(existsSync(`${path}.signed`)).toBe(false)
    expect(run('osslsigncode', 'verify', '-CAfile', join(dir, 'c.pem'), '-in', path)).toContain('Succeeded')
  })

  test('signs an rpm with the key that is named, and changes nothing inside', () => {
    const path = join(release, 'nsm-1.2.3-1.x86_64.rpm')
    const content = () => execFileSync('rpm2cpio', [path])
    const before = content()
    expect(sign([path])).toMatchObject({ status: 0 })
    expect(content().equals(before)).toBe(true)
    expect(run('rpm', '-qp', '--qf', '%{SIGPGP:pgpsig}%{RSAHEADER:pgpsig}', path)).toContain('RSA/SHA')
  })

  test('signs the sums so that the install script takes them', () => {
    expect(sign(['SHA256SUMS']).status).toBe(0)
    const words = ['-V', '-q', '-p', join(dir, 'minisign.pub'), '-m', join(release, 'SHA256SUMS')]
    expect(spawnSync('minisign', words).status).toBe(0)
    writeFileSync(join(release, 'SHA256SUMS'), 'other sums\n')
    expect(spawnSync('minisign', words).status).not.toBe(0)
  })

  test('passes over what has no signature of its own', () => {
    const names = ['nsm_1.2.3_amd64.deb', 'nsm-1.2.3-linux-x64.tar.xz', 'nsm-1.2.3-win-x64.zip']
    const before = names.map((name) => readFileSync(join(release, name)))
    expect(sign(names)).toMatchObject({ status: 0, stderr: '' })
    for (const [index, name] of names.entries())
      expect(readFileSync(join(release, name)).equals(before[index] ?? Buffer.alloc(0))).toBe(true)
  })

  test.each([
    ['NSM_SIGN_PKCS12', 'nsm-1.2.3-win-x64.msi'],
    ['NSM_SIGN_GPG', 'nsm-1.2.3-1.x86_64.rpm'],
    ['NSM_SIGN_MINISIGN', 'SHA256SUMS'],
  ])('without %s ends with what is missing, and with "none" leaves %s as it is', (variable, name) => {
    const copy = join(dir, name)
    copyFileSync(join(release, name), copy)
    const before = readFileSync(copy)
    const unset = sign([copy], { ...keys, [variable]: '' })
    expect([unset.status, unset.stderr]).toEqual([1, expect.stringContaining(`${variable} is not set`)])
    expect(sign([copy], { ...keys, [variable]: 'none' })).toMatchObject({ status: 0, stderr: '' })
    expect(readFileSync(copy).equals(before)).toBe(true)
  })

  test('leaves the file as it was when the key is no key', () => {
    const path = join(dir, 'again.msi')
    copyFileSync(join(release, 'nsm-1.2.3-win-x64.msi'), path)
    const before = readFileSync(path)
    const wrong = sign([path], { ...keys, NSM_SIGN_PKCS12: join(dir, 'c.pem') })
    expect([wrong.status, wrong.stderr]).toEqual([1, expect.stringContaining('does not sign')])
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  test('names a file that is not there', () => {
    expect(sign(['nothing.exe'])).toMatchObject({ status: 1, stderr: 'sign.sh: nothing.exe is no file\n' })
    expect(sign([]).status).toBe(1)
  })
})
