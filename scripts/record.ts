/**
 * Records exchanges with NSM's own programs into test/fixtures, where unit tests replay them without Go.
 * usage: npm run record     needs Go; the newest recording replaces the one before
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { NsmError } from '../src/base/errors.ts'
import { GoMesh } from '../test/interop/go-mesh.ts'
import { buildGoPeers } from '../test/interop/go-peers.ts'
import { fixtureOf, type RecordedEvent, recordingNames } from '../test/support/recordings.ts'

const peers = await buildGoPeers()
if (peers.path === undefined) throw new NsmError('NOT_READY', peers.why, 'install Go 1.24 or newer')
const mesh = await GoMesh.start(peers.path)
try {
  write(await record(mesh))
} finally {
  await mesh.close()
}
process.exit()

async function record(mesh: GoMesh): Promise<RecordedEvent[]> {
  const registry = await mesh.serve('registry')
  const manager = await mesh.serve('nsmgr', { registry: registry.url })
  await mesh.serve('forwarder', { manager: manager.url })
  await mesh.serve('vl3', { register: manager.url })
  const own = { register: registry.url, service: 'direct', name: 'direct-1', prefixes: '10.78.0.0/24' }
  const direct = await mesh.serve('vl3', { ...own, 'self-connect': 'false' })
  const flags = { registry: registry.url, manager: manager.url, direct: direct.url }
  return (await mesh.run('record', flags)).map((line) => JSON.parse(line))
}

/** A file for each recording: the versions, the certificates, and what belongs to it. */
function write(events: readonly RecordedEvent[]): void {
  const head = events.filter(({ event }) => event === 'versions' || event === 'peer')
  const versions = head.find(({ event }) => event === 'versions')?.versions ?? {}
  const said: string[] = []
  for (const name of recordingNames) {
    const own = events.filter(({ exchange = '' }) => exchange.startsWith(name))
    const path = resolve(import.meta.dirname, '..', fixtureOf(name))
    mkdirSync(resolve(path, '..'), { recursive: true })
    writeFileSync(path, [...head, ...own].map((event) => `${JSON.stringify(event)}\n`).join(''))
    said.push(`${name} ${own.filter(({ event }) => event === 'call').length} calls`)
  }
  const by = Object.entries(versions).map(([module, version]) => `${module} ${version}`)
  process.stdout.write(`recorded ${said.join(', ')} of ${by.sort().join(', ')}\n`)
}
