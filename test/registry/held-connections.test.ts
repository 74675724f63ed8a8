import { create } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ConnectionEventType,
  ConnectionSchema,
  MonitorScopeSelectorSchema,
  State,
} from '../../src/nsm/generated/connection_pb.js'
import { type HeldConnection, HeldConnections } from '../../src/registry/held-connections.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const heldBy = (owner: string, id: string): HeldConnection => ({
  connection: create(ConnectionSchema, { id, state: State.UP }),
  owner,
  closeBehind: async () => {},
  stopFollowing: () => {},
})

describe('held connections', () => {
  test('count what each owner holds, whatever is put, replaced by another owner, updated and taken', () => {
    const step = fc.record({
      act: fc.constantFrom('put', 'take', 'update', 'down'),
      id: fc.constantFrom('a', 'b', 'c', 'd'),
      owner: fc.constantFrom('alice', 'bob', 'carol'),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const held = new HeldConnections(createFakeClock())
        const model = new Map<string, string>()
        for (const { act, id, owner } of steps) {
          if (act === 'put') held.put(heldBy(owner, id), { endMs: 0, onEnd: () => {} })
          if (act === 'take') held.take(id)
          if (act === 'update') held.update(heldBy(model.get(id) ?? owner, id))
          if (act === 'down') held.down(id)
          if (act === 'put') model.set(id, owner)
          if (act === 'take') model.delete(id)
          for (const one of ['alice', 'bob', 'carol']) {
            expect(held.countOf(one)).toBe([...model.values()].filter((other) => other === one).length)
          }
        }
        held.close()
        expect(held.countOf('alice') + held.countOf('bob') + held.countOf('carol')).toBe(0)
      }),
    )
  })

  test('down is told to the owner as a state, and what is held stays as it was', async () => {
    const held = new HeldConnections(createFakeClock())
    const connection = heldBy('alice', 'a')
    held.put(connection, { endMs: 0, onEnd: () => {} })
    const stop = new AbortController()
    const events = held
      .watch(create(MonitorScopeSelectorSchema), ({ owner }) => owner === 'alice', stop.signal)
      [Symbol.asyncIterator]()
    await events.next()
    held.down('a')
    const { value } = await events.next()
    expect([value.type, value.connections['a']?.state]).toEqual([ConnectionEventType.UPDATE, State.DOWN])
    expect(held.get('a')?.connection.state).toBe(State.UP)
    stop.abort()
  })
})
