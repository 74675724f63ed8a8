import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { peerOutcomes } from '../support/dns-peer-outcomes.ts'
import { raced } from '../support/dns-scenarios.ts'

const execute = promisify(execFile)
/** The package need not be installed: `NSM_TEST_RESOLVED` names the program of an unpacked one. */
const places = [process.env['NSM_TEST_RESOLVED'], '/lib/systemd/systemd-resolved', '/usr/lib/systemd/systemd-resolved']
const binary = places.find((place) => place !== undefined && existsSync(place))
const { version, outcomes: recorded } = peerOutcomes.resolved
const said = binary ? await execute(binary, ['--version']).catch(() => ({ stdout: '' })) : { stdout: '' }
const isRoot = process.getuid?.() === 0
const why = said.stdout.startsWith(`systemd ${version} `)
  ? isRoot
    ? ''
    : ' (skipped, needs root)'
  : ` (skipped: systemd-resolved ${version} is not here; NSM_TEST_RESOLVED names one)`

describe.skipIf(why !== '')(`netns: systemd-resolved ${version} with the same two servers${why}`, () => {
  let outcomes: Readonly<Record<string, string>> = {}
  beforeAll(async () => {
    const program = resolve(import.meta.dirname, '../support/dns-resolved-program.ts')
    const args = ['--mount', '--net', process.execPath, program, binary ?? '']
    outcomes = JSON.parse((await execute('unshare', args)).stdout)
  })

  test.each(raced)('differs from ours in owner / host $title only as recorded', ({ title, ours }) => {
    expect((recorded[title] ?? ours).split(' or ')).toContain(outcomes[title])
  })
})
