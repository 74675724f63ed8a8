import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { createEventQueue, type EventQueue } from '../../src/nsm/event-queue.ts'
import {
  type ConnectionEvent,
  ConnectionEventSchema,
  ConnectionEventType,
  ConnectionSchema,
  MonitorScopeSelectorSchema,
  State,
} from '../../src/nsm/generated/connection_pb.js'
import { HeldConnections } from '../../src/registry/held-connections.ts'
import { followRemote } from '../../src/registry/passthrough.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const { INITIAL_STATE_TRANSFER, UPDATE, DELETE } = ConnectionEventType
const owner = 'spiffe://d/client'

interface Change {
  readonly state?: State
  readonly path?: { readonly index: number }
}

/** The connection as the manager (index 1) or the endpoint (index 2) sees it. */
const seenFrom = (index: number, change: Change = {}, managerId = 'm-1') =>
  create(ConnectionSchema, {
    id: index === 1 ? managerId : 'e-1',
    path: {
      index,
      pathSegments: [
        { name: 'client', id: 'c-1' },
        { name: 'manager', id: managerId },
        { name: 'endpoint', id: 'e-1' },
      ],
    },
    ...change,
  })

/** A manager that holds one connection, whose endpoint says what it is told to. */
function start() {
  const clock = createFakeClock()
  const held = new HeldConnections(clock)
  const asked: unknown[] = []
  let queue: EventQueue<ConnectionEvent> | undefined
  const monitor = (selector: object, signal?: AbortSignal) => {
    asked.push(selector)
    queue = createEventQueue<ConnectionEvent>([], { signal: signal ?? new AbortController().signal, onEnd: () => {} })
    return queue.events
  }
  const stop = followRemote({ monitor, name: 'manager', id: 'm-1', held, clock })
  const lease = { endMs: clock.wallMs() + 600_000, onEnd: () => {} }
  held.put({ connection: seenFrom(1), owner, closeBehind: async () => {}, stopFollowing: stop }, lease)
  const watching = new AbortController()
  const told: [ConnectionEventType, State | undefined, string | undefined, number | undefined][] = []
  const follow = async () => {
    const selector = create(MonitorScopeSelectorSchema, { pathSegments: [{ id: 'c-1' }] })
    for await (const { type, connections } of held.watch(selector, (one) => one.owner === owner, watching.signal)) {
      const [connection] = Object.values(connections)
      told.push([type, connection?.state, connection?.id, connection?.path?.index])
    }
  }
  void follow()
  return {
    ...{ clock, held, asked, stop, told },
    say: (type: ConnectionEventType, change?: Change, managerId?: string) => {
      const connection = seenFrom(2, change, managerId)
      queue?.push(create(ConnectionEventSchema, { type, connections: { [connection.id]: connection } }))
      return clock.advance(0)
    },
    breakOff: () => {
      queue?.end(new NsmError('UNREACHABLE', 'gone', 'wait'))
      return clock.advance(0)
    },
    end: () => {
      stop()
      watching.abort()
      held.close()
    },
  }
}

const initial = [INITIAL_STATE_TRANSFER, State.UP, 'm-1', 1]

describe('followRemote', () => {
  test('asks the endpoint for the connection by the manager’s segment', async () => {
    const { asked, clock, end } = start()
    await clock.advance(0)
    expect(asked).toEqual([{ pathSegments: [{ name: 'manager', id: 'm-1' }] }])
    end()
  })

  test('passes on an update in the manager’s view, and not what the request has answered already', async () => {
    const { say, told, end } = start()
    await say(INITIAL_STATE_TRANSFER)
    expect(told).toEqual([initial])
    await say(UPDATE, { state: State.REFRESH_REQUESTED })
    expect(told.slice(1)).toEqual([[UPDATE, State.REFRESH_REQUESTED, 'm-1', 1]])
    end()
  })

  test('passes on a delete as down: what to do is the client’s matter', async () => {
    const { say, told, held, end } = start()
    await say(DELETE)
    expect(told.slice(1)).toEqual([[UPDATE, State.DOWN, 'm-1', 1]])
    expect(held.get('m-1')).toBeDefined()
    end()
  })

  test('passes on nothing of a connection that is another’s, has no path, or is gone here', async () => {
    const { say, told, held, end } = start()
    await say(UPDATE, { state: State.DOWN }, 'm-2')
    await say(UPDATE, { state: State.DOWN, path: { index: 0 } })
    expect(told).toEqual([initial])
    held.take('m-1')
    await say(UPDATE, { state: State.DOWN })
    expect(told.slice(1)).toEqual([[DELETE, State.UP, 'm-1', 1]])
    end()
  })

  test('says down once when the endpoint goes away, asks again each second, and says it anew after a word of it', async () => {
    const { breakOff, say, told, asked, clock, end } = start()
    await clock.advance(0)
    for (let i = 0; i < 3; i++) {
      await breakOff()
      await clock.advance(1_000)
    }
    expect(told.slice(1)).toEqual([[UPDATE, State.DOWN, 'm-1', 1]])
    expect(asked).toHaveLength(4)
    await say(UPDATE)
    await breakOff()
    expect(told.slice(2)).toEqual([
      [UPDATE, State.UP, 'm-1', 1],
      [UPDATE, State.DOWN, 'm-1', 1],
    ])
    end()
  })

  test('asks no more when it is ended', async () => {
    const { stop, asked, told, breakOff, clock, end } = start()
    await clock.advance(0)
    stop()
    await breakOff()
    await clock.advance(10_000)
    expect([asked.length, told.length]).toEqual([1, 1])
    end()
  })
})
