import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { MeshRig, whyNotHere } from '../netns/mesh-rig.ts'

const program = process.env['NSM_PROGRAM'] ?? ''
const why = program === '' ? 'needs NSM_PROGRAM' : whyNotHere()
const dir = mkdtempSync(join(tmpdir(), 'nsm-engine-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Opens a tunnel in namespaces of its own, which take everything with them, and gives its counters. */
function countersOf(nsm: string, name: string): Record<string, number> {
  const conf = join(dir, `${name}.conf`)
  writeFileSync(conf, `[Interface]\nPrivateKey = ${'A'.repeat(43)}=\nAddress = 10.9.0.1/24\n`, { mode: 0o600 })
  const script = `ip link set lo up && "$0" tunnel up ${conf} >&2 && "$0" tunnel status --json`
  const own = ['--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc']
  const env = { PATH: process.env['PATH'], NSM_STATE_DIR: join(dir, name), NSM_RUNTIME_DIR: join(dir, name, 'run') }
  const out = execFileSync('unshare', [...own, 'sh', '-c', script, nsm], { env, encoding: 'utf8', stdio: 'pipe' })
  return JSON.parse(out).tunnels[0].counters
}

describe.skipIf(why !== undefined)(
  `the packet engine of the one-file executable${why ? ` (skipped: ${why})` : ''}`,
  () => {
    test('runs in its thread with the cipher and the offloads that the checkout finds on this machine', () => {
      const found = (counters: Record<string, number>) =>
        Object.entries(counters).filter(([counter]) => /cipher|offload|gso|gro|vnet/i.test(counter))
      const ours = found(countersOf(program, 'file'))
      expect(ours).toEqual(found(countersOf(resolve(import.meta.dirname, '../../bin/nsm'), 'checkout')))
      expect(ours.map(([counter]) => counter)).toContain('wideCipher')
    })

    // What the system reads must outlive the collector, also where a bundler has left out what looks useless.
    test('is not taken for dead while its process is kept busy and collects garbage', async () => {
      const rig = await MeshRig.open('nsmpe', ['s', 'a'])
      try {
        await rig.connect('a', await rig.file('join', await rig.serve('--site', 'only')), 'only')
        const seen = new Set<string | undefined>()
        for (let asked = 0; asked < callsOfGarbage; asked++) seen.add((await rig.status('a')).connections[0]?.state)
        expect([...seen]).toEqual(['up'])
      } finally {
        await rig.close()
      }
    })
  },
)

/** Ten seconds of calls on an idle machine: dozens of collections of the young generation, and fifty looks at the path. */
const callsOfGarbage = 12_000
