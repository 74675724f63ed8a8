import { join as joinPath } from 'node:path'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import type { Connection } from '../../src/nsm/generated/connection_pb.js'
import type { Hub, HubConfig } from '../../src/tunnel/hub.ts'
import { type FakeHub, openFakeHub } from '../support/fake-hub.ts'
import { scratchDir } from '../support/scratch.ts'
import { addressesOf, join, keyOf, leaseMs, membersOf, openRig, peerOf, refresh } from './vl3-rig.ts'

/* Many members at once: what they wait for overlaps, what is decided does not. */

/** A vL3 whose hub answers when it is let; `order` has what it was asked, as it was asked. */
async function openSlow() {
  const path = joinPath(await scratchDir(), 'vl3.db')
  const order: string[] = []
  const waiting: PromiseWithResolvers<void>[] = []
  const hubs: FakeHub[] = []
  const later = async (what: string, act: () => Promise<void>) => {
    order.push(what)
    const gate = Promise.withResolvers<void>()
    waiting.push(gate)
    await gate.promise
    await act()
  }
  const openHub = async (config: HubConfig): Promise<Hub> => {
    const hub = openFakeHub(config)
    hubs.push(hub)
    return {
      ...hub,
      setPeer: (peer) => later(`set ${Buffer.from(peer.publicKey).toString('base64')}`, () => hub.setPeer(peer)),
      removePeer: (key) => later(`remove ${Buffer.from(key).toString('base64')}`, () => hub.removePeer(key)),
    }
  }
  const rig = await openRig(path, { openHub })
  /** Lets the hub answer all it was asked, the oldest with this failure, and what follows from that. */
  const letAll = async (failure?: NsmError) => {
    if (failure) waiting.shift()?.reject(failure)
    for (let round = 0; round < 3; round++) {
      for (const gate of waiting.splice(0)) gate.resolve()
      await turn()
    }
  }
  /** What another process would find on disk. */
  const onDisk = () => {
    const store = openEndpointStore(path)
    const found = store.leases('blue').map(({ connectionId, releasedMs }) => [connectionId, releasedMs === undefined])
    store.close()
    return found
  }
  return { rig, hubs, order, letAll, onDisk }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const refused = new NsmError('REFUSED', 'weak key', 'make another')
/** What a request answers once the hub may. */
const joinAfter = async (answer: Promise<Connection>, letAll: () => Promise<void>) => {
  await letAll()
  return answer
}
const settledOf = (work: Promise<unknown>) => {
  const seen = { done: false }
  void work.then(
    () => Object.assign(seen, { done: true }),
    () => Object.assign(seen, { done: true }),
  )
  return seen
}

describe('vL3 members at once', () => {
  test('are asked of the hub without waiting for each other, and get different addresses', async () => {
    const { rig, order, letAll } = await openSlow()
    const ids = ['alice', 'bob', 'carol']
    const answers = ids.map((id) => join(rig, { id }))
    await turn()
    expect(order).toEqual(ids.map((id) => `set ${keyOf(id)}`))
    await letAll()
    expect((await Promise.all(answers)).map(addressesOf)).toEqual([
      ['10.64.0.1/32'],
      ['10.64.0.2/32'],
      ['10.64.0.3/32'],
    ])
  })

  test('a member has its answer only when its peer is live', async () => {
    const { rig, letAll, onDisk } = await openSlow()
    const answer = join(rig)
    const seen = settledOf(answer)
    await turn()
    await turn()
    expect([seen.done, onDisk()]).toEqual([false, []])
    await letAll()
    await answer
    expect(onDisk()).toEqual([['alice-0', true]])
  })

  test('join, refresh and close are answered when the disk knows, and not before', async () => {
    const path = joinPath(await scratchDir(), 'vl3.db')
    const rig = await openRig(path)
    const onDisk = () => {
      const store = openEndpointStore(path)
      const [lease] = store.leases('blue')
      store.close()
      return lease
    }
    const answer = await join(rig)
    expect(onDisk()).toMatchObject({ connectionId: 'alice-0', expiresMs: rig.clock.wallMs() + leaseMs })
    await rig.clock.advance(1_000)
    await refresh(rig, answer)
    expect(onDisk()?.expiresMs).toBe(rig.clock.wallMs() + leaseMs)
    await rig.vl3.close(answer, peerOf('alice'))
    expect(onDisk()?.releasedMs).toBe(rig.clock.wallMs())
  })

  test('a member whose row cannot be written is no member, and its peer goes', async () => {
    const store = openEndpointStore(':memory:')
    const full = new NsmError('BUG', 'the disk is full', 'make room')
    const failing = { ...store, committed: () => Promise.reject(full) }
    const rig = await openRig(':memory:', { store: failing })
    await expect(join(rig)).rejects.toBe(full)
    expect([membersOf(rig), rig.hub.peers.size]).toEqual([[], 0])
  })

  test('a close is answered when the peer is gone and the disk knows; the member is gone before', async () => {
    const { rig, order, letAll, onDisk } = await openSlow()
    const joining = join(rig)
    await letAll()
    const answer = await joining
    const closing = rig.vl3.close(answer, peerOf('alice'))
    const seen = settledOf(closing)
    await turn()
    await turn()
    expect([membersOf(rig), seen.done]).toEqual([[], false])
    await letAll()
    await closing
    expect(order).toEqual([`set ${keyOf('alice')}`, `remove ${keyOf('alice')}`])
    expect([membersOf(rig), onDisk()]).toEqual([[], [['alice-0', false]]])
  })

  test('the same connection twice is asked of the hub once, and both answers wait for it', async () => {
    const { rig, order, letAll } = await openSlow()
    const answers = [join(rig), join(rig)]
    const seen = answers.map(settledOf)
    await turn()
    expect([seen.map(({ done }) => done), order]).toEqual([[false, false], [`set ${keyOf('alice')}`]])
    await letAll()
    const [first, second] = await Promise.all(answers)
    expect([first && addressesOf(first), order.length]).toEqual([second && addressesOf(second), 1])
  })

  test('one that the hub refuses leaves the others alone and its address is not given to them', async () => {
    const { rig, letAll, onDisk } = await openSlow()
    const alice = join(rig, { id: 'alice' })
    await turn()
    const failing = expect(alice).rejects.toMatchObject({ code: 'REFUSED' })
    await letAll(refused)
    await failing
    const bob = join(rig, { id: 'bob' })
    await letAll()
    expect(addressesOf(await bob)).toEqual(['10.64.0.2/32'])
    expect([membersOf(rig).length, onDisk()]).toEqual([1, [['bob-0', true]]])
  })

  test('one that takes the place of another which is not live yet keeps its peer and its row', async () => {
    const { rig, order, letAll, onDisk } = await openSlow()
    const first = join(rig, { connectionId: 'old' })
    await turn()
    const second = join(rig, { connectionId: 'new' })
    await letAll()
    await Promise.allSettled([first, second])
    const key = keyOf('alice')
    expect(order).toEqual([`set ${key}`, `remove ${key}`, `set ${key}`])
    expect(membersOf(rig)).toHaveLength(1)
    expect(onDisk().toSorted()).toEqual([
      ['new', true],
      ['old', false],
    ])
  })

  test('one that fails after another has taken its place does not take the peer of that one away', async () => {
    const { rig, hubs, order, letAll, onDisk } = await openSlow()
    const first = join(rig, { connectionId: 'old' })
    await turn()
    const second = join(rig, { connectionId: 'new' })
    await turn()
    const failing = expect(first).rejects.toMatchObject({ code: 'REFUSED' })
    await letAll(refused)
    await failing
    await second
    const key = keyOf('alice')
    expect(order).toEqual([`set ${key}`, `remove ${key}`, `set ${key}`])
    expect([membersOf(rig).length, hubs.flatMap(({ peers }) => [...peers.keys()])]).toEqual([1, [key]])
    expect(onDisk().toSorted()).toEqual([
      ['new', true],
      ['old', false],
    ])
    expect(addressesOf(await joinAfter(join(rig, { id: 'bob' }), letAll))).not.toEqual(addressesOf(await second))
  })

  test('two identities with one key: the first has it, the second is refused although the first is not live yet', async () => {
    const { rig, letAll } = await openSlow()
    const alice = join(rig, { id: 'alice', key: keyOf('shared') })
    const mallory = join(rig, { id: 'mallory', key: keyOf('shared') })
    await expect(mallory).rejects.toMatchObject({ code: 'REFUSED' })
    await letAll()
    expect(addressesOf(await alice)).toEqual(['10.64.0.1/32'])
  })

  test('stop waits for what is under way and refuses what comes later', async () => {
    const { rig, hubs, letAll } = await openSlow()
    const alice = join(rig)
    await turn()
    const stopping = rig.vl3.stop()
    const seen = settledOf(stopping)
    await expect(join(rig, { id: 'bob' })).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await turn()
    await turn()
    expect([seen.done, hubs.map(({ isClosed }) => isClosed)]).toEqual([false, [false]])
    await letAll()
    await alice
    await stopping
    expect(rig.clock.waiting).toBe(0)
  })
})
