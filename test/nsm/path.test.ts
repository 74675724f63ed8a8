import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Connection, ConnectionSchema, PathSchema } from '../../src/nsm/generated/connection_pb.js'
import {
  enterPath,
  leaseEndMs,
  leavePath,
  refreshDelayMs,
  stampTokens,
  startPath,
  trimPath,
} from '../../src/nsm/path.ts'

const hop = (name: string, id = `${name}-new`) => ({ name, newId: () => id })
const connectionOf = (id: string, index: number, segments: readonly { name: string; id: string }[]): Connection =>
  create(ConnectionSchema, { id, path: { index, pathSegments: [...segments] } })
const namesOf = (connection: Connection) => connection.path?.pathSegments.map(({ name, id }) => `${name}=${id}`)

describe('enterPath', () => {
  const client = { name: 'client', id: 'c' }
  const table: readonly {
    readonly rule: string
    readonly sent: Connection
    readonly names: readonly string[]
    readonly index: number
    readonly id: string
  }[] = [
    {
      rule: '0: an empty path gets this hop alone',
      sent: create(ConnectionSchema),
      names: ['me=me-new'],
      index: 0,
      id: 'me-new',
    },
    {
      rule: '0: an empty path keeps the id of the connection',
      sent: create(ConnectionSchema, { id: 'mine' }),
      names: ['me=mine'],
      index: 0,
      id: 'mine',
    },
    {
      rule: '1: a segment of my name is mine again',
      sent: connectionOf('other', 0, [{ name: 'me', id: 'old' }]),
      names: ['me=old'],
      index: 0,
      id: 'old',
    },
    {
      rule: '2.1: the next segment of another name becomes mine, with a new id',
      sent: connectionOf('c', 0, [client, { name: 'gone', id: 'g' }, { name: 'nse', id: 'n' }]),
      names: ['client=c', 'me=me-new', 'nse=n'],
      index: 1,
      id: 'me-new',
    },
    {
      rule: '2.2: without a next segment mine is appended',
      sent: connectionOf('c', 0, [client]),
      names: ['client=c', 'me=me-new'],
      index: 1,
      id: 'me-new',
    },
    {
      rule: '2.3: the next segment of my name keeps its id',
      sent: connectionOf('c', 0, [client, { name: 'me', id: 'kept' }]),
      names: ['client=c', 'me=kept'],
      index: 1,
      id: 'kept',
    },
  ]
  test.each(table)('rule $rule', ({ sent, names, index, id }) => {
    const before = clone(ConnectionSchema, sent)
    const { connection } = enterPath(sent, hop('me'))
    expect(namesOf(connection)).toEqual(names)
    expect(connection.path?.index).toBe(index)
    expect(connection.id).toBe(id)
    expect(sent).toEqual(before)
  })

  test('rule 2.0 refuses an id that is not the one of the current segment', () => {
    const sent = connectionOf('other', 0, [client])
    expect(() => enterPath(sent, hop('me'))).toThrow(
      /Current PathSegment.Id=="c" should be equal Connection.Id=="other"/,
    )
  })

  test('refuses an index behind the path', () => {
    const sent = connectionOf('c', 3, [client])
    expect(() => enterPath(sent, hop('me'))).toThrow(
      'Path.Index+1==4 should be less or equal len(Path.PathSegments)==1',
    )
  })

  test('the path keeps its ids through any number of refreshes, whatever the hops', () => {
    const names = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,8}$/), { minLength: 2, maxLength: 8 })
    fc.assert(
      fc.property(names, fc.integer({ min: 1, max: 4 }), ([client = '', ...hops], rounds) => {
        let connection = create(ConnectionSchema, { id: 'c-0', path: startPath(client, 'c-0') })
        let ids: readonly string[] | undefined
        for (let round = 0; round < rounds; round++) {
          connection = through(connection, hops, round)
          const found = connection.path?.pathSegments.map(({ id }) => id)
          expect(found).toHaveLength(hops.length + 1)
          expect(found).toEqual(ids ?? found)
          expect(connection.path?.index).toBe(0)
          expect(connection.id).toBe('c-0')
          ids = found
        }
      }),
    )
  })

  test('never throws anything but a refusal, whatever the path', () => {
    const segments = fc.array(fc.record({ name: fc.string(), id: fc.string() }), { maxLength: 6 })
    fc.assert(
      fc.property(fc.string(), fc.nat({ max: 8 }), segments, (id, index, pathSegments) => {
        try {
          const { connection } = enterPath(connectionOf(id, index, pathSegments), hop('me'))
          const current = connection.path?.pathSegments[connection.path.index]
          expect(current?.name).toBe('me')
          expect(current?.id).toBe(connection.id)
        } catch (error) {
          expect(error).toMatchObject({ code: 'REFUSED' })
        }
      }),
    )
  })
})

function through(connection: Connection, hops: readonly string[], round: number): Connection {
  const [name, ...rest] = hops
  if (name === undefined) return trimPath(connection)
  const { connection: entered, callerIndex } = enterPath(connection, hop(name, `${name}-${round}`))
  return leavePath(through(entered, rest, round), callerIndex)
}

describe('trimPath', () => {
  test('cuts what lies behind the current segment', () => {
    const long = connectionOf('b', 1, [
      { name: 'a', id: 'a' },
      { name: 'b', id: 'b' },
      { name: 'old', id: 'o' },
    ])
    expect(namesOf(trimPath(long))).toEqual(['a=a', 'b=b'])
  })
})

describe('stampTokens', () => {
  test('writes the caller into the segment before and this hop into its own', () => {
    const at = connectionOf('b', 1, [
      { name: 'a', id: 'a' },
      { name: 'b', id: 'b' },
    ])
    const stamped = stampTokens(at, {
      caller: { token: 't1', expiresMs: 1_500 },
      own: { token: 't2', expiresMs: 2_500 },
    })
    expect(stamped.path?.pathSegments.map(({ token }) => token)).toEqual(['t1', 't2'])
    expect(stamped.path?.pathSegments.map(({ expires }) => expires)).toEqual([
      timestampFromMs(1_500),
      timestampFromMs(2_500),
    ])
  })
})

describe('every step on a path', () => {
  const frozen = (connection: Connection) => {
    Object.freeze(connection)
    Object.freeze(connection.path)
    for (const segment of connection.path?.pathSegments ?? []) Object.freeze(segment)
    Object.freeze(connection.path?.pathSegments)
    return connection
  }
  const token = (text: string) => ({ token: text, expiresMs: 1_000 })
  const steps: readonly ((connection: Connection) => Connection)[] = [
    (connection) => enterPath(connection, hop('me')).connection,
    (connection) => leavePath(connection, 0),
    trimPath,
    (connection) => stampTokens(connection, { caller: token('c'), own: token('o') }),
  ]

  test('leaves its input alone, what the answer changes too', () => {
    const segments = fc.array(fc.record({ name: fc.constantFrom('me', 'client', 'nse'), id: fc.string() }), {
      maxLength: 4,
    })
    fc.assert(
      fc.property(segments, fc.nat({ max: 3 }), (pathSegments, index) => {
        const id = pathSegments[index]?.id ?? 'c'
        for (const step of steps) {
          const sent = frozen(connectionOf(id, index, pathSegments))
          const before = clone(ConnectionSchema, sent)
          try {
            for (const segment of step(sent).path?.pathSegments ?? []) if (!Object.isFrozen(segment)) segment.id = 'x'
          } catch (error) {
            expect(error).toMatchObject({ code: 'REFUSED' })
          }
          expect(sent).toEqual(before)
        }
      }),
    )
  })

  test('keeps what it does not know, also on the wire', () => {
    const sent = connectionOf('c', 0, [{ name: 'client', id: 'c' }])
    const unknown = [{ no: 99, wireType: 0, data: Uint8Array.of(7) }]
    sent.$unknown = unknown
    sent.labels = { a: 'b' }
    const passed = steps.reduce((connection, step) => step(connection), sent)
    expect(passed).toMatchObject({ $typeName: 'connection.Connection', $unknown: unknown, labels: { a: 'b' } })
    const read = fromBinary(ConnectionSchema, toBinary(ConnectionSchema, passed))
    expect(read).toMatchObject({ labels: { a: 'b' }, $unknown: [{ no: 99 }] })
  })
})

describe('refreshDelayMs', () => {
  const pathOf = (index: number, ends: readonly (number | undefined)[]) =>
    create(PathSchema, {
      index,
      pathSegments: ends.map((end) => (end === undefined ? {} : { expires: timestampFromMs(end) })),
    })
  test.each([
    {
      what: 'a fifth of the shortest life for the first of several',
      index: 0,
      ends: [600_000, 300_000, 900_000],
      delay: 60_000,
    },
    { what: 'a third when there is one segment', index: 0, ends: [600_000], delay: 200_000 },
    { what: '0.2 + 0.2 x index / segments further on', index: 1, ends: [600_000, 600_000], delay: 180_000 },
    { what: 'at once when an end has passed', index: 0, ends: [600_000, -1], delay: 0 },
    { what: 'segments without an end are skipped', index: 0, ends: [undefined, 600_000, undefined], delay: 120_000 },
    { what: 'a path without any end waits two minutes', index: 0, ends: [undefined, undefined], delay: 120_000 },
  ])('$what', ({ index, ends, delay }) => {
    expect(refreshDelayMs(pathOf(index, ends), 0)).toBeCloseTo(delay, 6)
  })
})

describe('leaseEndMs', () => {
  const at = (index: number) => create(PathSchema, { index, pathSegments: [{ expires: timestampFromMs(600_000) }, {}] })
  test('is the end of the segment before, less what is left of the deadline', () => {
    expect(leaseEndMs(at(1), 15_000)).toBe(585_000)
    expect(leaseEndMs(at(1), 0)).toBe(600_000)
  })
  test('refuses a path without that end', () => {
    expect(() => leaseEndMs(at(0), 0)).toThrow('expiration for the previous path segment cannot be nil')
  })
})
