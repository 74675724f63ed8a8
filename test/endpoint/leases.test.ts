import { existsSync, statSync } from 'node:fs'
import { join as joinPath } from 'node:path'
import { clone, create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import type { HubConfig } from '../../src/tunnel/hub.ts'
import { openFakeHub } from '../support/fake-hub.ts'
import { admissionOf } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'
import {
  addressesOf,
  idOf,
  join,
  keyOf,
  kill,
  leaseMs,
  membersOf,
  openRig,
  peerOf,
  refresh,
  restMs,
} from './vl3-rig.ts'

const fresh = async () => openRig(joinPath(await scratchDir(), 'vl3.db'))

const admitted = (...names: readonly string[]) =>
  admissionOf({
    td: 'example.org',
    grants: names.map((name) => ({ who: idOf(name), may: ['request'], services: ['blue'] })),
  })

test('vL3 tells the hub what fits to a member, also after a change and a restart, and never less than every link carries', async () => {
  const path = joinPath(await scratchDir(), 'vl3.db')
  const rig = await openRig(path)
  const mtusOf = ({ hub }: typeof rig) => [...hub.peers.values()].map(({ mtuBytes }) => mtuBytes)
  const answer = await join(rig, { mtu: '1380' })
  await join(rig, { id: 'bob', mtu: '9000' })
  await join(rig, { id: 'mallory', mtu: '68' })
  expect(mtusOf(rig)).toEqual([1_380, 1_420, 1_280])
  const calls = rig.hub.calls.length
  await refresh(rig, answer)
  expect(rig.hub.calls).toHaveLength(calls)
  await refresh(rig, answer, 'alice', (connection) => {
    if (connection.mechanism) connection.mechanism.parameters['MTU'] = '1300'
  })
  expect(mtusOf(rig)).toEqual([1_300, 1_420, 1_280])
  kill(rig)
  expect(mtusOf(await openRig(path, {}, rig.clock))).toEqual([1_300, 1_420, 1_280])
})

describe('vL3 end of a lease', () => {
  test('close removes peer and member; again, by another identity, or of an unknown one it is done already', async () => {
    const rig = await fresh()
    const answer = await join(rig)
    await rig.vl3.close(clone(ConnectionSchema, answer), peerOf('mallory'))
    expect(membersOf(rig)).toHaveLength(1)
    await rig.vl3.close(clone(ConnectionSchema, answer), peerOf('alice'))
    await rig.vl3.close(clone(ConnectionSchema, answer), peerOf('alice'))
    expect([membersOf(rig), rig.hub.peers.size]).toEqual([[], 0])
    await rig.vl3.close(create(ConnectionSchema, { id: 'nobody' }), peerOf('alice'))
  })

  test('close of a connection that its client has replaced leaves the new one alone', async () => {
    const rig = await fresh()
    const old = await join(rig)
    await join(rig)
    await rig.vl3.close(old, peerOf('alice'))
    expect(membersOf(rig)).toHaveLength(1)
  })

  test('a lease that is not renewed ends by itself', async () => {
    const rig = await fresh()
    await join(rig)
    await rig.clock.advance(leaseMs - 1)
    expect(rig.hub.peers.size).toBe(1)
    await rig.clock.advance(1)
    expect([membersOf(rig), rig.hub.peers.size]).toEqual([[], 0])
  })

  test('each refresh moves the end', async () => {
    const rig = await fresh()
    let answer = await join(rig)
    for (let i = 0; i < 5; i++) {
      await rig.clock.advance(leaseMs / 2)
      answer = await refresh(rig, answer)
    }
    expect(membersOf(rig)).toHaveLength(1)
    await rig.clock.advance(leaseMs)
    expect(membersOf(rig)).toEqual([])
  })

  test('it ends with the shortest token on the way, not with that of the manager', async () => {
    const rig = await fresh()
    await join(rig, {
      change(connection) {
        const client = connection.path?.pathSegments[0]
        if (client?.expires) client.expires.seconds -= 60n
      },
    })
    await rig.clock.advance(leaseMs - 60_000)
    expect(rig.hub.peers.size).toBe(0)
  })
})

describe('vL3 restart', () => {
  test('each workload behind a relay has as many connections left as before', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    const relayed = (origin: string, number: number) => ({
      ...{ id: 'forwarder', origin, connectionId: `${origin}-${number}`, key: keyOf(`${origin} ${number}`) },
    })
    for (let number = 0; number < 64; number++) await join(before, relayed('web', number))
    kill(before)
    const after = await openRig(path, {}, before.clock)
    await expect(join(after, relayed('web', 64))).rejects.toMatchObject({ code: 'REFUSED' })
    expect(addressesOf(await join(after, relayed('mail', 0)))).toEqual(['10.64.0.65/32'])
  })

  test('brings members, peers, addresses, names and its own key back at once, also after being killed', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    const answer = await join(before)
    await join(before, { id: 'bob' })
    kill(before)
    const after = await openRig(path, {}, before.clock)
    expect(after.hub.config.privateKey).toEqual(before.hub.config.privateKey)
    expect(membersOf(after)).toEqual(membersOf(before))
    expect([...after.hub.peers.values()]).toEqual([...before.hub.peers.values()])
    expect(after.hub.sent).toHaveLength(2)
    const again = await refresh(after, answer)
    expect(addressesOf(again)).toEqual(['10.64.0.1/32'])
    expect(again.mechanism?.parameters['dst_public_key']).toBe(answer.mechanism?.parameters['dst_public_key'])
    expect(addressesOf(await join(after, { id: 'carol' }))).toEqual(['10.64.0.3/32'])
  })

  test('restored leases end when they would have', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    await join(before)
    kill(before)
    await before.clock.advance(leaseMs / 2)
    const after = await openRig(path, {}, before.clock)
    await after.clock.advance(leaseMs / 2)
    expect([membersOf(after), after.hub.peers.size]).toEqual([[], 0])
  })

  test('a lease that ended while nobody was there is not restored, and its address rests from that time', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    await join(before)
    await before.vl3.stop()
    before.store.close()
    await before.clock.advance(leaseMs + 1)
    const after = await openRig(path, {}, before.clock)
    expect(after.hub.peers.size).toBe(0)
    expect(addressesOf(await join(after, { id: 'bob' }))).toEqual(['10.64.0.2/32'])
    await after.clock.advance(restMs)
    expect(addressesOf(await join(after, { id: 'carol' }))).toEqual(['10.64.0.1/32'])
  })

  test('members are reached where their datagrams came from last', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    await join(before)
    before.hub.seenAt.set(keyOf('alice'), { address: '203.0.113.4', port: 40_000 })
    await before.clock.advance(10_000)
    kill(before)
    const after = await openRig(path, {}, before.clock)
    expect(after.hub.peers.get(keyOf('alice'))?.endpoint).toEqual({ address: '203.0.113.4', port: 40_000 })
  })

  test('with other prefixes drops the leases and members get new addresses', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    const answer = await join(before)
    kill(before)
    const after = await openRig(path, { prefixes: ['10.65.0.0/24'] }, before.clock)
    expect(after.hub.peers.size).toBe(0)
    expect(addressesOf(await refresh(after, answer))).toEqual(['10.65.0.1/32'])
  })

  test('does not bring back whom the policy no longer admits, nor whom the hub refuses', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const before = await openRig(path)
    for (const id of ['alice', 'bob', 'carol']) await join(before, { id })
    kill(before)
    const openHub = async (config: HubConfig) => {
      const hub = openFakeHub(config)
      hub.failNext(new NsmError('REFUSED', 'weak key', 'make another'))
      return hub
    }
    const after = await openRig(path, { admission: admitted('bob', 'carol'), openHub }, before.clock)
    expect(membersOf(after)).toEqual([[idOf('carol'), '10.64.0.3/32']])
    expect(after.store.leases('blue').filter(({ releasedMs }) => releasedMs !== undefined)).toHaveLength(2)
    expect(addressesOf(await join(after, { id: 'bob' }))).toEqual(['10.64.0.2/32'])
  })

  test('stop closes the hub and leaves no timer behind', async () => {
    const rig = await fresh()
    await join(rig)
    await rig.vl3.stop()
    expect([rig.hub.isClosed, rig.clock.waiting]).toEqual([true, 0])
  })

  test('the file with the private key is for its owner only', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    await join(await openRig(path))
    for (const file of [path, `${path}-wal`, `${path}-shm`]) {
      if (existsSync(file)) expect([file, statSync(file).mode & 0o777]).toEqual([file, 0o600])
    }
  })
})
