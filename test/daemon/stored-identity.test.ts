import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Settings } from '../../src/base/settings.ts'
import { enrolmentPath, lastDomainPath, loginPath, refreshTokenPath } from '../../src/daemon/paths.ts'
import { readLoginDomains, readStoredDomains } from '../../src/daemon/stored-identity.ts'
import { isTrustDomain } from '../../src/identity/spiffe-id.ts'
import { temporaryDir } from '../identity/fixtures.ts'

const settingsIn = (stateDir: string): Settings => ({
  ...{ stateDir, runtimeDir: stateDir, logLevel: 'error', resolvConf: '/etc/resolv.conf' },
})
const suffixes = ['.login', '.json', '.login.json', '.refresh-token', 'last', '']
const domains = fc
  .tuple(fc.stringMatching(/^[a-z0-9._-]{1,8}$/), fc.constantFrom(...suffixes))
  .map((parts) => parts.join(''))

describe('what rests of a trust domain', () => {
  test('is never in a file of another one, nor of another kind', () => {
    const settings = settingsIn('/state')
    const pathsOf = (domain: string) =>
      [enrolmentPath, loginPath, refreshTokenPath].map((path) => path(settings, domain))
    fc.assert(
      fc.property(fc.uniqueArray(domains, { minLength: 1, maxLength: 6 }), (names) => {
        expect(names.every(isTrustDomain)).toBe(true)
        const paths = [lastDomainPath(settings), ...names.flatMap(pathsOf)]
        expect(new Set(paths).size).toBe(paths.length)
      }),
    )
  })

  test('tells identities and logins apart, also of a domain that is called as a login’s file was', async () => {
    const settings = settingsIn(temporaryDir())
    expect([await readStoredDomains(settings), await readLoginDomains(settings)]).toEqual([[], []])
    mkdirSync(dirname(lastDomainPath(settings)), { recursive: true })
    const files = [
      enrolmentPath(settings, 'acme.login'),
      enrolmentPath(settings, 'acme'),
      loginPath(settings, 'acme'),
      loginPath(settings, 'other'),
      refreshTokenPath(settings, 'other'),
      lastDomainPath(settings),
    ]
    for (const file of files) writeFileSync(file, 'x')
    expect((await readStoredDomains(settings)).toSorted()).toEqual(['acme', 'acme.login', 'other'])
    expect((await readLoginDomains(settings)).toSorted()).toEqual(['acme', 'other'])
  })
})
