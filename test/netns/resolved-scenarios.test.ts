import { execFile } from 'node:child_process'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { debianPackage } from '../support/debian-packages.ts'
import { peerOutcomes } from '../support/dns-peer-outcomes.ts'
import { raced } from '../support/dns-scenarios.ts'

const execute = promisify(execFile)
const folder = await debianPackage('systemd-resolved')
const binary = folder && join(folder, 'usr/lib/systemd/systemd-resolved')
const { version, outcomes: recorded } = peerOutcomes.resolved
const said = binary ? await execute(binary, ['--version']).catch(() => ({ stdout: '' })) : { stdout: '' }
const isRoot = process.getuid?.() === 0
const why = said.stdout.startsWith(`systemd ${version} `)
  ? isRoot
    ? ''
    : ' (skipped, needs root)'
  : ` (skipped: apt has no systemd-resolved ${version})`

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
