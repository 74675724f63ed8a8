import { join as joinPath } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { scratchDir } from '../support/scratch.ts'
import { idOf, join, keyOf, kill, leaseMs, openRig, peerOf, refresh } from './vl3-rig.ts'

async function start() {
  const events: AuditEvent[] = []
  const path = joinPath(await scratchDir(), 'endpoint.db')
  const rig = await openRig(path, { audit: { record: (event) => void events.push(event) } })
  onTestFinished(() => kill(rig))
  return { rig, events }
}

const alice = {
  id: idOf('alice'),
  service: 'blue',
  connection: 'alice-0',
  address: '10.64.0.1/32',
  publicKey: keyOf('alice'),
}

describe('the record of a member', () => {
  test('ties identity, service, connection, addresses and key together, once', async () => {
    const { rig, events } = await start()
    const answer = await join(rig)
    await refresh(rig, answer)
    await refresh(rig, answer)
    expect(events).toEqual([expect.objectContaining({ event: 'conn.up', ...alice })])
  })

  test('says when the same connection comes back with another key', async () => {
    const { rig, events } = await start()
    await join(rig)
    await join(rig, { key: keyOf('another') })
    expect(events.slice(1)).toEqual([
      expect.objectContaining({ event: 'conn.heal', ...alice, publicKey: keyOf('another') }),
    ])
  })

  test.each([
    ['closed', 'closed'],
    ['silent', 'expired'],
  ])('says that it is down and why: %s', async (how, reason) => {
    const { rig, events } = await start()
    const answer = await join(rig)
    if (how === 'closed') await rig.vl3.close(answer, peerOf('alice'))
    else await rig.clock.advance(leaseMs + 1)
    expect(events.slice(1).map(({ event, ...rest }) => [event, rest['reason']])).toEqual([['conn.down', reason]])
  })

  test('has nobody who got no lease', async () => {
    const { rig, events } = await start()
    await join(rig)
    await expect(join(rig, { id: 'mallory', key: keyOf('alice') })).rejects.toMatchObject({ code: 'REFUSED' })
    expect(events.map(({ event }) => event)).toEqual(['conn.up'])
  })
})
