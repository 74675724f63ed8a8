import { hash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { requireIntegrity } from '../../scripts/package/npm-package.ts'
import { builderPackage, ownTarget, targets } from '../../scripts/package/target.ts'
import { versionLine } from '../../src/ui/version-info.ts'

describe('the platforms', () => {
  test.each(targets.map((target) => [target.name, target] as const))(
    '%s has a hash of all that goes into it',
    (_name, target) => {
      const packages = [target.node, builderPackage(target), ...target.addons.map((addon) => addon.package)]
      for (const { integrity, version } of packages) {
        expect(integrity).toMatch(/^sha512-[A-Za-z0-9+/]{86}==$/)
        expect(version).toMatch(/^\d+\.\d+\.\d+$/)
      }
    },
  )

  test('have native code of their own, two parts of the same names', () => {
    for (const { addons } of targets) expect(addons.map(({ part }) => part)).toEqual(['koffi.node', 'keyring.node'])
    const files = targets.flatMap(({ addons }) => addons.map((addon) => addon.package.name))
    expect(new Set(files).size).toBe(files.length)
  })

  test('are prepared by a Node of their own version: it alone writes what theirs reads', () => {
    for (const target of targets) expect(builderPackage(target).version).toBe(target.nodeVersion)
  })

  test('include the one that this is, and it says of itself what it says of others', () => {
    const { system, nodeVersion } = ownTarget()
    expect(versionLine()).toBe(
      versionLine({ version: /nsm (\S+)/.exec(versionLine())?.[1] ?? '', system, node: process.version }),
    )
    expect(`v${nodeVersion}`).toBe(process.version)
  })
})

describe('requireIntegrity', () => {
  const archive = new TextEncoder().encode('archive')
  const integrity = `sha512-${hash('sha512', archive, 'base64')}`

  test('takes the archive that was written down', () => {
    expect(() => requireIntegrity(archive, { name: 'a', version: '1.0.0', integrity })).not.toThrow()
  })

  test('refuses any other, and says what it is', () => {
    const other = new TextEncoder().encode('archivf')
    const wanted = { name: 'a', version: '1.0.0', integrity }
    expect(() => requireIntegrity(other, wanted)).toThrow(`a@1.0.0 is not the package that was written down: sha512-`)
  })
})
