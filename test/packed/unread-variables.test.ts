import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageFolder } from '../../scripts/package/npm-package.ts'
import { ownTarget } from '../../scripts/package/target.ts'
import { unreadVariables, withoutVariables } from '../../scripts/package/unread-variables.ts'

/** A file with each name once, as C has its strings. */
const file = (more = '') => Buffer.from(`\x7fELF\0${unreadVariables.join('\0')}\0${more}\0`, 'latin1')
/** As V8's snapshot holds a string: its length, then its characters. */
const inSnapshot = (name: string) => `${String.fromCharCode(name.length)}\0\0\0${name}\0\0`

describe('withoutVariables', () => {
  test('makes each name empty, and changes nothing else', () => {
    const zeroed = unreadVariables.map((name) => '\0'.repeat(name.length)).join('\0')
    expect(withoutVariables(file('NODE_OPTIONS'))).toEqual(Buffer.from(`\x7fELF\0${zeroed}\0NODE_OPTIONS\0`, 'latin1'))
  })

  test('leaves what it was given as it was', () => {
    const given = file()
    withoutVariables(given)
    expect(given).toEqual(file())
  })

  test.each(unreadVariables)('leaves %s where it is a string of a snapshot, or part of a longer one', (name) => {
    const kept = `${inSnapshot(name)}X_${name}\0${name}_PORTABLE`
    expect(withoutVariables(file(kept)).toString('latin1')).toContain(kept)
  })

  test.each(unreadVariables)('ends the build when %s is not there, or twice', (name) => {
    const without = Buffer.from(file().toString('latin1').replace(`\0${name}\0`, '\0X\0'), 'latin1')
    expect(() => withoutVariables(without)).toThrow(`${name} is 0 times in Node`)
    expect(() => withoutVariables(file(name))).toThrow(`${name} is 2 times in Node`)
  })

  test("changes of this machine's Node as many bytes as the names have", () => {
    const { node, nodePath } = ownTarget()
    const program = readFileSync(join(packageFolder(node), nodePath))
    const changed = withoutVariables(program)
    let count = 0
    for (let at = 0; at < program.length; at += blockBytes) {
      const [before, after] = [program, changed].map((bytes) => bytes.subarray(at, at + blockBytes))
      if (before && after && !before.equals(after))
        for (const [index, byte] of before.entries()) if (byte !== after[index]) count++
    }
    expect(count).toBe(unreadVariables.join('').length)
  })
})

const blockBytes = 65_536
