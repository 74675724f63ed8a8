import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { whyNoLab } from '../../scripts/demo/lab.ts'

const root = resolve(import.meta.dirname, '../..')
const refused = await whyNoLab()
const why = refused ? ` (skipped: ${refused.message})` : ''
/** The demo takes some 12 s on two cores; a busy machine gets ten times as long. */
const demoTimeoutMs = 120_000

function runDemo(): { readonly status: number | null; readonly document: unknown } {
  const args = [join(root, 'scripts/demo/demo.ts'), '--json']
  const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: demoTimeoutMs })
  return { status, document: JSON.parse(stdout) }
}

test.skipIf(refused !== undefined)(
  `the demo holds each step on real packets and leaves nothing behind${why}`,
  () => {
    const { status, document } = runDemo()
    expect(document).toMatchObject({ apiVersion: 'nsm/demo/v1', ok: true })
    expect(document).not.toMatchObject({ steps: expect.arrayContaining([expect.objectContaining({ ok: false })]) })
    const applications = expect.stringMatching(/SPIFFE_ENDPOINT_SOCKET=unix:\/\/\.\.\.\/run\/workload\.sock$/)
    const shown = expect.objectContaining({ seen: expect.arrayContaining(['$ nsm status', applications]) })
    expect(document).toMatchObject({ steps: expect.arrayContaining([shown]) })
    expect(status).toBe(0)
  },
  demoTimeoutMs,
)

const able = refused ? '' : ' (skipped: this machine lacks nothing)'

test.skipIf(refused === undefined)(
  `the demo says what this machine lacks and what to do, and changes nothing${able}`,
  () => {
    const { status, document } = runDemo()
    expect(document).toMatchObject({ error: { code: 'PERMISSION' } })
    expect(status).toBe(9)
  },
)
