import { join as pathJoin } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import { dnsPort } from '../../src/endpoint/gateway-dns.ts'
import { queriesPerSecondMax } from '../../src/endpoint/query-rate.ts'
import { buildUdp } from '../../src/tunnel/ip-packet.ts'
import { questionBytes } from '../support/dns-client.ts'
import { scratchDir } from '../support/scratch.ts'
import { addressesOf, idOf, join, keyOf, membersOf, openRig, peerOf, type Rig, refresh } from './vl3-rig.ts'

let rig: Rig
beforeEach(async () => {
  rig = await openRig(pathJoin(await scratchDir(), 'vl3.db'))
})

describe('a hostile member', () => {
  test.each(['wpad', 'WPAD', 'isatap', 'gateway', 'localhost'])(
    'that calls itself %s does not get the name',
    async (name) => {
      await join(rig, { name })
      expect(rig.vl3.members().map(({ label }) => label)).toEqual([`${name.toLowerCase()}-2`])
    },
  )

  test("that names another member's path segment is refused, and that member can still leave", async () => {
    const answer = await join(rig, { id: 'alice' })
    const segment = answer.path?.pathSegments.at(-1)
    const steal = join(rig, {
      id: 'mallory',
      change: (connection) => void (segment && connection.path?.pathSegments.push(segment)),
    })
    await expect(steal).rejects.toMatchObject({ code: 'REFUSED' })
    await rig.vl3.close(answer, peerOf('alice'))
    expect(membersOf(rig)).toEqual([])
  })

  test('that moves from address to address does not use up the pool', async () => {
    const excluded: string[] = []
    let answer = await join(rig, { id: 'mallory' })
    const move = async () => {
      excluded.push(...(addressesOf(answer) ?? []))
      answer = await refresh(rig, answer, 'mallory', (connection) => {
        connection.context?.ipContext?.excludedPrefixes.splice(0, 9_999, ...excluded)
      })
    }
    await expect(
      (async () => {
        for (;;) await move()
      })(),
    ).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('rest after use') })
    expect(excluded.length).toBeLessThan(200)
    expect(membersOf(rig)).toHaveLength(1)
    expect(addressesOf(await join(rig, { id: 'bob' }))).toHaveLength(1)
  })

  test('that floods the gateway with questions is answered so many in a second, and the others are answered', async () => {
    const ask = (source: string) =>
      rig.hub.config.onLocalPacket(
        buildUdp({
          source: parseAddress(source),
          sourcePort: 40_000,
          destination: parseAddress('10.64.0.0'),
          destinationPort: dnsPort,
          payload: questionBytes('alice.blue.nsm.internal'),
        }),
      )
    for (let i = 0; i < queriesPerSecondMax + 200; i++) ask('10.64.0.2')
    expect(rig.hub.sent).toHaveLength(queriesPerSecondMax)
    ask('10.64.0.3')
    expect(rig.hub.sent).toHaveLength(queriesPerSecondMax + 1)
  })
})

describe('a vL3', () => {
  test('that stops grants nothing any more and keeps what it has for the next start', async () => {
    const answer = await join(rig)
    await rig.vl3.stop()
    await expect(refresh(rig, answer)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await expect(join(rig, { id: 'bob' })).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(rig.store.leases('blue')).toMatchObject([{ spiffeId: idOf('alice'), releasedMs: undefined }])
  })

  test('whose store fails while a member changes its key leaves neither key in the hub', async () => {
    const answer = await join(rig, { key: keyOf('old') })
    rig.store.close()
    const changed = refresh(rig, answer, 'alice', (connection) => {
      if (connection.mechanism) connection.mechanism.parameters['src_public_key'] = keyOf('new')
    })
    await expect(changed).rejects.toThrow()
    expect([...rig.hub.peers.keys()]).toEqual([])
    expect(membersOf(rig)).toEqual([])
  })
})
