import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterEach, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { signToken } from '../../src/identity/token.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { PathSegmentSchema } from '../../src/nsm/generated/connection_pb.js'
import { keyOf, wireGuardOffer } from '../endpoint/vl3-rig.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { policyText } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'

const relay = 'spiffe://mesh.internal/system/nsmgr'
const { signal } = new AbortController()
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A server of the trust domain mesh.internal, and what asks it in the name of its workloads. */
async function openMesh(relays?: readonly string[], more: Partial<ServeSettings> = {}) {
  const dir = await scratchDir()
  const settings: ServeSettings = {
    ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', trustDomain: 'mesh.internal' },
    ...{ listen: '127.0.0.1:0', wireguardPort: 0, stateDir: join(dir, 'one'), runtimeDir: join(dir, 'run') },
    ...(relays === undefined ? {} : { relays }),
    ...more,
  }
  const running = await startServe(settings, silentLog, signal)
  closers.push(() => running.stop())
  const sessionOf = async (id: string) => {
    const { joinString } = await inviteFromRunning(settings, { id, ttlMs: 60_000 })
    const place = { stateDir: join(dir, id), runtimeDir: join(dir, id), resolvConf: join(dir, 'resolv.conf') }
    const sessions = new Sessions({ settings: { ...place, logLevel: 'info' }, clock: systemClock, log: silentLog })
    closers.push(() => sessions.close())
    return sessions.open({ joinString }, signal)
  }
  const manager = createNsmClient((await sessionOf('/system/nsmgr')).channel)
  const workload = async (id: string) => {
    const session = await sessionOf(id)
    return (connection: string) => {
      const expiresMs = systemClock.wallMs() + 600_000
      const token = signToken({ svid: session.source.current().svid, audience: relay, expiresMs })
      const expires = timestampFromMs(expiresMs)
      const first = create(PathSegmentSchema, { name: id, id: connection, token, expires })
      return manager.request(requestBehind(first))
    }
  }
  return { workload }
}

/** What a manager passes on: the workload first on the path, the manager second. */
function requestBehind(first: ReturnType<typeof create<typeof PathSegmentSchema>>) {
  const request = firstRequest({ networkService: 'blue' }, first.name)
  const id = `nsmgr-${first.id}`
  const { connection } = request
  if (connection) connection.id = id
  if (connection?.path) {
    connection.path.index = 1
    connection.path.pathSegments.splice(0, 1, first, create(PathSegmentSchema, { name: 'nsmgr', id }))
  }
  return { ...request, mechanismPreferences: [wireGuardOffer(keyOf(first.id))] }
}

test('a server without relays refuses a request that starts with another workload', async () => {
  const { workload } = await openMesh()
  const pod = await workload('/pod-1')
  await expect(pod('a')).rejects.toMatchObject({ message: expect.stringContaining('relay') })
})

test.each([
  ['named', relay],
  ['below a named path', 'spiffe://mesh.internal/system/*'],
])('a relay that is %s passes requests on, 64 connections for each workload', async (_how, name) => {
  const { workload } = await openMesh([name])
  const [one, two] = [await workload('/pod-1'), await workload('/pod-2')]
  const answer = await one('a-0')
  expect(answer.path?.pathSegments.map((segment) => segment.name).slice(0, 2)).toEqual(['/pod-1', 'nsmgr'])
  for (let i = 1; i < 64; i++) await one(`a-${i}`)
  await expect(one('a-64')).rejects.toMatchObject({ code: 'REFUSED' })
  await two('b-0')
  await one('a-63')
})

test('under a policy a relay passes on what is granted to it for whom it is granted', async () => {
  const member = { who: 'spiffe://mesh.internal/pod-1', may: ['request'], services: ['blue'] }
  const grants = [member, { who: 'spiffe://mesh.internal/system/*', may: ['relay'], services: ['blue'] }]
  const policyPath = join(await scratchDir(), 'policy.json')
  await writeFile(policyPath, policyText({ td: 'mesh.internal', grants }))
  const { workload } = await openMesh(undefined, { policyPath })
  const [one, two] = [await workload('/pod-1'), await workload('/pod-2')]
  expect((await one('a-0')).context?.ipContext?.srcIpAddrs).toEqual(['10.64.0.1/32'])
  await expect(two('b-0')).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('NOT_GRANTED') })
})
