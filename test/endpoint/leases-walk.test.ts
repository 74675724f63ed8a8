import { join as joinPath } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Connection } from '../../src/nsm/generated/connection_pb.js'
import { createFakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'
import { addressesOf, idOf, join, keyOf, kill, leaseMs, openRig, peerOf, type Rig, refresh } from './vl3-rig.ts'

/* The leases of a vL3 beside a model of them: who joined is a member until it leaves or its lease is over, with one address
 * of its own, also over the death of the process. */

const clients = ['alice', 'bob', 'carol', 'dave']

interface Held {
  readonly answer: Connection
  readonly address: string
  readonly endMs: number
}

type Model = Map<string, Held>

interface Real {
  rig: Rig
  readonly path: string
}

type Command = fc.AsyncCommand<Model, Real>

function command(text: string, run: (model: Model, real: Real) => Promise<void>): Command {
  return {
    check: () => true,
    toString: () => text,
    async run(model, real) {
      await run(model, real)
      agree(model, real)
    },
  }
}

/** A client that comes, or that lost everything but its id and comes again. */
const joins = (id: string) =>
  command(`${id} joins`, async (model, { rig }) => {
    const answer = await join(rig, { id })
    const [address = ''] = addressesOf(answer) ?? []
    if (model.has(id)) expect(address).toBe(model.get(id)?.address)
    model.set(id, { answer, address, endMs: rig.clock.wallMs() + leaseMs })
  })

/** Also of a lease that is over: it then is one anew. */
const refreshes = (id: string) =>
  command(`${id} refreshes`, async (model, { rig }) => {
    const held = model.get(id)
    if (!held) return
    const answer = await refresh(rig, held.answer, id)
    expect(addressesOf(answer)).toEqual([held.address])
    model.set(id, { ...held, answer, endMs: rig.clock.wallMs() + leaseMs })
  })

const leaves = (id: string) =>
  command(`${id} leaves`, async (model, { rig }) => {
    const held = model.get(id)
    if (!held) return
    await rig.vl3.close(held.answer, peerOf(id))
    model.delete(id)
  })

/** A close that comes late, of what the client has replaced meanwhile. */
const replaces = (id: string) =>
  command(`${id} joins anew and closes what it had`, async (model, { rig }) => {
    const held = model.get(id)
    if (!held) return
    const answer = await join(rig, { id })
    model.set(id, { ...held, answer, endMs: rig.clock.wallMs() + leaseMs })
    await rig.vl3.close(held.answer, peerOf(id))
  })

const isLeftAlone = (id: string, by: string) =>
  command(`${by} closes what is of ${id}`, async (model, { rig }) => {
    const held = model.get(id)
    if (held) await rig.vl3.close(held.answer, peerOf(by))
  })

const passes = (byMs: number) =>
  command(`${byMs} ms pass`, async (model, { rig }) => {
    await rig.clock.advance(byMs)
    for (const [id, { endMs }] of model) if (endMs <= rig.clock.wallMs()) model.delete(id)
  })

const dies = command('the process dies and starts again', async (_model, real) => {
  const { clock } = real.rig
  kill(real.rig)
  await real.rig.vl3.stop().catch(() => {})
  real.rig = await openRig(real.path, {}, clock)
})

function agree(model: Model, { rig }: Real): void {
  const members = rig.vl3.members().map(({ spiffeId, addresses, expiresMs }) => ({ spiffeId, addresses, expiresMs }))
  const held = [...model].map(([id, { address, endMs }]) => ({
    spiffeId: idOf(id),
    addresses: [address],
    expiresMs: endMs,
  }))
  const byId = (a: { spiffeId: string }, b: { spiffeId: string }) => a.spiffeId.localeCompare(b.spiffeId)
  expect(members.sort(byId)).toEqual(held.sort(byId))
  expect(new Set(held.map(({ addresses }) => addresses[0])).size).toBe(held.length)
  expect([...rig.hub.peers.keys()].sort()).toEqual([...model.keys()].map(keyOf).sort())
  for (const [id, { address }] of model) expect(rig.hub.peers.get(keyOf(id))?.allowedPrefixes).toEqual([address])
  const stored = rig.store.leases('blue').filter(({ releasedMs }) => releasedMs === undefined)
  expect(stored.map(({ spiffeId }) => spiffeId).sort()).toEqual([...model.keys()].map(idOf).sort())
}

test('a vL3 agrees with its model on every walk: members, addresses, peers of the hub and rows on disk', async () => {
  const client = fc.constantFrom(...clients)
  const commands = [
    client.map(joins),
    client.map(refreshes),
    client.map(leaves),
    client.map(replaces),
    fc
      .tuple(client, client)
      .filter(([id, by]) => id !== by)
      .map((both) => isLeftAlone(...both)),
    fc.constantFrom(1, leaseMs / 2, leaseMs).map(passes),
    fc.constant(dies),
  ]
  const dir = await scratchDir()
  let runs = 0
  await fc.assert(
    fc.asyncProperty(fc.commands(commands, { maxCommands: 30 }), async (walk) => {
      runs += 1
      const path = joinPath(dir, `vl3-${runs}.db`)
      const real: Real = { rig: await openRig(path, {}, createFakeClock()), path }
      try {
        await fc.asyncModelRun(() => ({ model: new Map<string, Held>(), real }), walk)
      } finally {
        await real.rig.vl3.stop()
        real.rig.store.close()
      }
    }),
    { numRuns: 30 },
  )
})
