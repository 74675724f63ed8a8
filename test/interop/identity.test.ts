import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Target } from '../../src/nsm/channel.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { GoMesh } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { openMember } from './member.ts'
import { startOurServe } from './our-serve.ts'

const peers = await buildGoPeers()
/**
 * A new SVID with a new key comes at half of it. NSM's client refuses to close a connection whose path has expired, so a
 * busy machine needs room.
 */
const life = '16s'

describe.skipIf(!peers.path)(suiteName('identities that rotate under connections that last', peers), () => {
  let mesh: GoMesh
  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '', life)
  })
  afterAll(() => mesh?.close())

  const rotation = async (name: string) => {
    const source = await mesh.source(name)
    const before = source.current().svid
    await new Promise<void>((resolve) => {
      const stop = source.onChange(() => {
        stop()
        resolve()
      })
    })
    expect(source.current().svid.privateKey.equals(before.privateKey)).toBe(false)
  }

  test('our client and an NSM endpoint, our servers and an NSM client go on with new keys', async () => {
    const ours = await startOurServe(mesh)
    const icmp: Target = await mesh.serve('icmp', { register: ours.url })
    const client = await mesh.client(icmp)
    const member = await openMember()
    mesh.onClose(() => member.close())
    const change = { networkService: 'icmp', networkServiceEndpointName: 'icmp-1' }
    const request = { ...firstRequest(change), mechanismPreferences: [member.preference] }
    const theirs = await mesh.connect({ to: ours.url, service: 'ours', name: 'steady', 'call-timeout': '2s' })
    const first = await client.request(request)
    await Promise.all([rotation('laptop'), rotation('ours')])
    const second = await client.request({ ...request, connection: first })
    await Promise.all([rotation('laptop'), rotation('ours')])
    const third = await client.request({ ...request, connection: second })
    expect(third.context?.ipContext).toEqual(first.context?.ipContext)
    expect(ours.vl3.members().map(({ label }) => label)).toEqual(['steady'])
    await client.close(third)
    expect(await theirs.stop()).toBe(0)
    expect(ours.vl3.members()).toEqual([])
  })
})
