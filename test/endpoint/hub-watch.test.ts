import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { HubWatch } from '../../src/endpoint/hub-watch.ts'

function start() {
  const events: AuditEvent[] = []
  const watch = new HubWatch({
    service: 'blue',
    audit: { record: (event) => void events.push(event) },
    idOf: (key) => (key === 'unknown' ? undefined : `spiffe://example.org/${key}`),
  })
  /** What one look records; `by` is how often each key has sent from elsewhere since it is a peer. */
  const look = (counters: Readonly<Record<string, number>>, by: Readonly<Record<string, number>> = {}) => {
    const rest = { lastHandshakeAgeMs: 0, rttMs: 0, receivedBytes: 0, sentBytes: 0, endpoint: undefined }
    watch.look({ counters, peers: Object.entries(by).map(([publicKey, spoofed]) => ({ ...rest, publicKey, spoofed })) })
    return events.splice(0)
  }
  return look
}

describe('HubWatch', () => {
  test('records when the hub began and ceased to be under load, by cookies and by the limit of sources, once each', () => {
    const look = start()
    expect(look({ cookiesSent: 0 })).toEqual([])
    expect(look({ cookiesSent: 9 })).toEqual([{ event: 'wg.underload.on', service: 'blue', count: 9 }])
    expect(look({ cookiesSent: 20 })).toEqual([])
    expect(look({ cookiesSent: 20, sourceLimited: 1 })).toEqual([])
    expect(look({ cookiesSent: 20, sourceLimited: 1 })).toEqual([{ event: 'wg.underload.off', service: 'blue' }])
    expect(look({ cookiesSent: 20, sourceLimited: 1 })).toEqual([])
    expect(look({ cookiesSent: 20, sourceLimited: 2 })).toMatchObject([{ event: 'wg.underload.on', count: 1 }])
  })

  test('records how often each member sent from elsewhere since the last look', () => {
    const look = start()
    const event = (id: string, count: number) => ({
      ...{ event: 'wg.spoof', service: 'blue', count },
      ...{ publicKey: id, id: `spiffe://example.org/${id}` },
    })
    expect(look({ spoofed: 5 }, { alice: 3, bob: 2, carol: 0 })).toEqual([event('alice', 3), event('bob', 2)])
    expect(look({ spoofed: 5 }, { alice: 3, bob: 2 })).toEqual([])
    expect(look({ spoofed: 6 }, { alice: 3, bob: 3 })).toEqual([event('bob', 1)])
  })

  test('counts a peer that was made anew from 0, and what was done by members that have left', () => {
    const look = start()
    look({ spoofed: 9 }, { alice: 5, bob: 4 })
    expect(look({ spoofed: 11 }, { alice: 2 })).toMatchObject([{ count: 2, publicKey: 'alice' }])
    expect(look({ spoofed: 14 })).toEqual([
      { event: 'wg.spoof', service: 'blue', reason: 'by members that have left', count: 3 },
    ])
    expect(look({ spoofed: 15 }, { unknown: 1 })).toMatchObject([{ id: undefined, publicKey: 'unknown', count: 1 }])
  })
})
