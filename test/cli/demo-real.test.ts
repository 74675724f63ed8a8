import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { whyNoLab } from '../../scripts/demo/lab.ts'
import { whyNoPeers } from '../../scripts/demo/why-no-peers.ts'

const root = resolve(import.meta.dirname, '../..')
const refused = (await whyNoLab()) ?? (await whyNoPeers())
const why = refused ? ` (skipped: ${refused.message})` : ''
/** It takes some 25 s on two cores, most of it waiting for a refresh; a busy machine gets ten times as long. */
const demoTimeoutMs = 240_000

test.skipIf(refused !== undefined)(
  `the demo --real connects through NSM's own manager and forwarder, refreshes, and leaves nothing behind${why}`,
  () => {
    const args = [join(root, 'scripts/demo/demo.ts'), '--real', '--json']
    const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: demoTimeoutMs })
    const document = JSON.parse(stdout)
    expect(document.steps.filter(({ ok }: { readonly ok: boolean }) => !ok)).toEqual([])
    expect(document).toMatchObject({ apiVersion: 'nsm/demo/v1', ok: true })
    expect(document.steps).toHaveLength(14)
    expect(status).toBe(0)
  },
  demoTimeoutMs,
)
