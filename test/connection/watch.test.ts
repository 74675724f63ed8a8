import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { excludedPrefixes, nameOwners, takenPrefixes, withoutLaterRoutes } from '../../src/connection/taken.ts'
import { readEvent } from '../../src/connection/watch.ts'
import { ConnectionEventSchema, ConnectionEventType, State } from '../../src/nsm/generated/connection_pb.js'

const own = { name: 'lap', id: 'lap-1' }

function event(type: ConnectionEventType, state: State, firstId = own.id) {
  const connection = {
    id: 'm-1',
    state,
    path: {
      index: 1,
      pathSegments: [
        { name: 'lap', id: firstId },
        { name: 'manager', id: 'm-1' },
      ],
    },
  }
  return create(ConnectionEventSchema, { type, connections: { 'm-1': connection } })
}

describe('readEvent', () => {
  const { INITIAL_STATE_TRANSFER, UPDATE, DELETE } = ConnectionEventType
  test.each([
    ['an update of a healthy connection', UPDATE, State.UP, own.id, undefined],
    ['the initial state of a healthy one', INITIAL_STATE_TRANSFER, State.UP, own.id, undefined],
    ['the initial state of a dead one', INITIAL_STATE_TRANSFER, State.DOWN, own.id, 'down'],
    ['an update to DOWN', UPDATE, State.DOWN, own.id, 'down'],
    ['a delete, whatever its state', DELETE, State.UP, own.id, 'down'],
    ['a wish for a refresh', UPDATE, State.REFRESH_REQUESTED, own.id, 'refresh-asked'],
    ['a delete of another connection', DELETE, State.DOWN, 'other-1', undefined],
  ])('%s', (_, type, state, firstId, kind) => {
    expect(readEvent(event(type, state, firstId), own)?.kind).toBe(kind)
  })

  test('an empty initial state says nothing', () => {
    expect(readEvent(create(ConnectionEventSchema, {}), own)).toBeUndefined()
  })
})

describe('takenPrefixes', () => {
  const around = {
    host: {
      interfaceNames: ['lo', 'eth0', 'nsm-blue'],
      addresses: [
        { interfaceName: 'lo', prefix: '127.0.0.1/8' },
        { interfaceName: 'eth0', prefix: '192.168.1.7/24' },
        { interfaceName: 'nsm-blue', prefix: '10.64.0.1/32' },
      ],
      routes: [
        { interfaceName: 'eth0', prefix: '0.0.0.0/0', gateway: '192.168.1.1' },
        { interfaceName: 'eth0', prefix: '10.9.0.0/16', gateway: '192.168.1.2' },
        { interfaceName: 'nsm-blue', prefix: '10.64.0.0/16', gateway: undefined },
      ],
    },
    ownInterfaceNames: ['nsm-blue'],
    addresses: [{ address: '203.0.113.5', what: 'the manager' }],
    others: [
      {
        service: 'green',
        prefixes: ['10.65.0.0/16'],
        interfaceName: 'nsm-green',
        addresses: ['10.65.0.9/32'],
        mayOverlap: false,
      },
    ],
    excludePrefixes: ['10.99.0.0/16'],
  }

  test('are what the machine uses, without loopback, default routes and our own interfaces', () => {
    expect(takenPrefixes(around).map(({ prefix, by }) => `${prefix} ${by}`)).toEqual([
      '192.168.1.0/24 address on eth0',
      '10.9.0.0/16 route on eth0',
      '192.168.1.1/32 gateway on eth0',
      '192.168.1.2/32 gateway on eth0',
      '203.0.113.5/32 the manager',
      '10.65.0.0/16 network service green',
      '10.99.0.0/16 excluded by the user',
    ])
  })

  test('of a service of the same awareness group only its own address counts', () => {
    const friends = around.others.map((other) => ({ ...other, mayOverlap: true }))
    const taken = takenPrefixes({ ...around, others: friends }).filter(({ by }) => by.includes('green'))
    expect(taken).toEqual([{ prefix: '10.65.0.9/32', by: 'network service green', mayOverlap: true }])
  })

  test('a route that came after the prefixes were given does not count, any other still does', () => {
    const taken = takenPrefixes(around)
    const kept = withoutLaterRoutes(taken, ['10.9.7.1/32', '192.168.1.0/24'])
    expect(taken.filter((one) => !kept.includes(one)).map(({ by }) => by)).toEqual(['route on eth0', 'gateway on eth0'])
    expect(kept.map(({ by }) => by)).toContain('address on eth0')
    expect(withoutLaterRoutes(taken, ['10.64.0.0/16'])).toEqual(taken)
  })

  test('an endpoint that has no room beside them is told apart by who uses what', () => {
    const error = new NsmError(
      'CONFLICT',
      'address pool 10.65.1.0/24 lies wholly in the excluded prefix 10.65.0.0/16',
      '',
    )
    expect(nameOwners(error, takenPrefixes(around)).message).toMatch(
      /10\.65\.0\.0\/16 is used here \(network service green\)/,
    )
    const other = new NsmError('CONFLICT', 'the pool is exhausted', '')
    expect(nameOwners(other, takenPrefixes(around))).toBe(other)
  })

  test('are sent once each', () => {
    const taken = takenPrefixes(around)
    expect(excludedPrefixes([...taken, ...taken]).length).toBe(7)
  })
})
