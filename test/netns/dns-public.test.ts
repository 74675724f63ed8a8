import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'

const execute = promisify(execFile)
const able =
  process.getuid?.() === 0 &&
  (await execute('unshare', ['--net', 'ip', 'link']).then(
    () => true,
    () => false,
  ))

describe.skipIf(!able)(
  `netns: a server with a public address${able ? '' : ' (skipped, needs root, unshare and ip)'}`,
  () => {
    let seen: Readonly<Record<string, unknown>> & { readonly ports: number; readonly mixed: number }
    beforeAll(async () => {
      const program = resolve(import.meta.dirname, '../support/dns-public-program.ts')
      seen = JSON.parse((await execute('unshare', ['--net', process.execPath, program])).stdout)
    })

    test('is asked from many ports and in random spellings, and answers reach the client in its own', () => {
      expect(seen['addresses']).toEqual(['10.0.0.1'])
      expect(seen['spelling']).toBe('WhAt')
      expect(seen.ports).toBeGreaterThan(25)
      expect(seen.mixed).toBeGreaterThan(0.95)
    })

    test('that keeps our spelling is not stood in for by a reply in another one', () => {
      expect(seen).toMatchObject({ forged: '10.0.0.1', otherCase: 1 })
    })

    test('that keeps no spelling is asked plainly after the first reply', () => {
      expect(seen['mixedTowardsLower']).toEqual([true, false, false, false, false])
    })
  },
)
