import { create } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { type NetworkServiceEndpoint, NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { createRegistry, type Registry } from '../../src/registry/registry.ts'
import { openRegistryStore, type RegistryStore } from '../../src/registry/store.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

/* The registry beside a model of it: a name belongs to whoever registered it first, for a minute or as long as the token,
 * whatever comes in whatever order, restarts too. */

const lifeMs = 60_000
const names = ['a', 'b', 'c']
const owners = ['spiffe://d/one', 'spiffe://d/two']

interface Entry {
  readonly owner: string
  readonly firstMs: number
  readonly endMs: number
}

/** What the registry should know, and what a watcher should have seen. */
interface Model {
  readonly entries: Map<string, Entry>
  readonly told: string[]
}

interface Real {
  registry: Registry
  readonly store: RegistryStore
  readonly clock: FakeClock
  readonly seen: string[]
  stopWatch: AbortController
}

type Command = fc.AsyncCommand<Model, Real>

function register(name: string, owner: string, tokenMs: number): Command {
  return {
    check: () => true,
    toString: () => `register ${name} by ${owner.slice(-3)} for ${tokenMs}`,
    async run(model, real) {
      const nowMs = real.clock.wallMs()
      const offered = create(NetworkServiceEndpointSchema, {
        name,
        networkServiceNames: ['net'],
        url: 'tcp://10.0.0.1:1',
      })
      const act = () => real.registry.registerEndpoint(offered, owner, nowMs + tokenMs)
      const held = model.entries.get(name)
      if (held && held.owner !== owner) return expect(act).toThrow('no sufficient privileges: client_allowed')
      const entry = { owner, firstMs: held?.firstMs ?? nowMs, endMs: nowMs + Math.min(lifeMs, tokenMs) }
      expect(timesOf(act())).toEqual({ firstMs: entry.firstMs, endMs: entry.endMs })
      model.entries.set(name, entry)
      model.told.push(name)
      return agree(model, real)
    },
  }
}

function unregister(name: string, owner: string): Command {
  return {
    check: () => true,
    toString: () => `unregister ${name} by ${owner.slice(-3)}`,
    async run(model, real) {
      const act = () => real.registry.unregisterEndpoint(name, owner)
      const held = model.entries.get(name)
      if (held && held.owner !== owner) return expect(act).toThrow('no sufficient privileges: client_allowed')
      act()
      if (model.entries.delete(name)) model.told.push(`-${name}`)
      return agree(model, real)
    },
  }
}

function advance(byMs: number): Command {
  return {
    check: () => true,
    toString: () => `advance ${byMs}`,
    async run(model, real) {
      await real.clock.advance(byMs)
      const nowMs = real.clock.wallMs()
      const over = [...model.entries].filter(([, { endMs }]) => endMs <= nowMs)
      for (const [name] of over.sort(([, a], [, b]) => a.endMs - b.endMs)) {
        model.entries.delete(name)
        model.told.push(`-${name}`)
      }
      await agree(model, real)
    },
  }
}

const restart: Command = {
  check: () => true,
  toString: () => 'restart',
  async run(model, real) {
    real.stopWatch.abort()
    real.registry.close()
    open(real)
    real.seen.length = 0
    model.told.splice(0, model.told.length, ...[...model.entries.keys()].sort())
    await agree(model, real)
    real.seen.sort()
  },
}

function open(real: Real): void {
  real.registry = createRegistry({ store: real.store, clock: real.clock, log: silentLog })
  real.stopWatch = new AbortController()
  const found = real.registry.watchEndpoints(create(NetworkServiceEndpointSchema), real.stopWatch.signal)
  const follow = async () => {
    for await (const { entry, deleted } of found) real.seen.push(`${deleted ? '-' : ''}${entry.name}`)
  }
  follow().catch(() => {})
}

async function agree(model: Model, real: Real): Promise<void> {
  await real.clock.advance(0)
  const found = real.registry.findEndpoints(create(NetworkServiceEndpointSchema))
  expect(found.map(({ name }) => name).sort()).toEqual([...model.entries.keys()].sort())
  for (const endpoint of found)
    expect(timesOf(endpoint)).toMatchObject({ endMs: model.entries.get(endpoint.name)?.endMs })
  for (const name of names) expect(real.registry.ownerOf(name)).toBe(model.entries.get(name)?.owner)
  expect([...real.seen].sort()).toEqual([...model.told].sort())
}

function timesOf({ initialRegistrationTime, expirationTime }: NetworkServiceEndpoint) {
  return {
    firstMs: initialRegistrationTime && timestampMs(initialRegistrationTime),
    endMs: expirationTime && timestampMs(expirationTime),
  }
}

test('the registry agrees with its model on every walk: owners, times, ends and what a watcher sees', async () => {
  const name = fc.constantFrom(...names)
  const owner = fc.constantFrom(...owners)
  const commands = [
    fc.tuple(name, owner, fc.constantFrom(10_000, lifeMs, 600_000)).map((chosen) => register(...chosen)),
    fc.tuple(name, owner).map((chosen) => unregister(...chosen)),
    fc.constantFrom(1, 9_999, 30_000, lifeMs).map(advance),
    fc.constant(restart),
  ]
  await fc.assert(
    fc.asyncProperty(fc.commands(commands, { maxCommands: 40 }), async (walk) => {
      const clock = createFakeClock()
      const store = openRegistryStore(':memory:')
      const registry = createRegistry({ store, clock, log: silentLog })
      const real: Real = { registry, store, clock, seen: [], stopWatch: new AbortController() }
      registry.close()
      open(real)
      try {
        await fc.asyncModelRun(() => ({ model: { entries: new Map(), told: [] }, real }), walk)
      } finally {
        real.stopWatch.abort()
        real.registry.close()
        store.close()
      }
    }),
    { numRuns: 60 },
  )
})
