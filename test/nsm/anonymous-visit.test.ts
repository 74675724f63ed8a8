import { connect as connectHttp2 } from 'node:http2'
import { connect, createSecureContext } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import { tlsMaterial, trustMaterial } from '../../src/identity/tls-material.ts'
import { startVisit } from '../../src/nsm/anonymous-visit.ts'
import { openAnonymousChannel } from '../../src/nsm/channel.ts'
import { IdentityService } from '../../src/nsm/generated/identity_pb.js'
import { openUnary, unary } from '../../src/nsm/grpc.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { FakeClock, TestMesh } from './mesh.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

describe('the visit of a caller without a certificate', () => {
  test.each([
    ['ends after 10 s of silence', 9_999, 1, []],
    ['ends one second after its call was answered', 5_999, 1, [[0, 5_000]]],
    [
      'goes on while another call runs',
      20_999,
      1,
      [
        [0, 5_000],
        [1_000, 20_000],
      ],
    ],
    ['ends after 30 s with a call that is never answered', 29_999, 1, [[0, 99_000]]],
    ['ends after 30 s however often it calls', 29_999, 1, everySecond()],
  ])('%s', async (_what, openMs, thenMs, calls) => {
    const clock = createFakeClock()
    let closed = 0
    const visit = startVisit(clock, () => void closed++)
    for (const [beginMs = 0, endMs = 0] of calls) {
      clock.after(beginMs, () => {
        const answered = visit.begin()
        clock.after(endMs - beginMs, answered)
      })
    }
    await clock.advance(openMs)
    expect(closed).toBe(0)
    await clock.advance(thenMs)
    expect(closed).toBe(1)
  })

  test('leaves no timer behind when the connection goes first', () => {
    const clock = createFakeClock()
    startVisit(clock, () => {}).end()
    expect(clock.waiting).toBe(0)
  })
})

describe('a server', () => {
  async function start() {
    const clock = new FakeClock()
    const mesh = new TestMesh('test.internal', clock)
    open.push(() => mesh.close())
    const { getConfiguration, renew } = IdentityService.method
    const server = await mesh.serve([
      openUnary(getConfiguration, async () => ({ trustDomain: 'test.internal' })),
      unary(renew, async () => ({})),
    ])
    const { bundles } = mesh.source('/x').current()
    const dial = async (material: object) => {
      const socket = connect({
        ...{ host: '127.0.0.1', port: server.port, ALPNProtocols: ['h2'], servername: 'x.internal' },
        secureContext: createSecureContext(material),
        checkServerIdentity: () => undefined,
      })
      open.push(() => socket.destroy())
      socket.on('error', () => {})
      const session = connectHttp2('https://x.internal', { createConnection: () => socket })
      session.on('error', () => {})
      await new Promise((resolve) => session.once('remoteSettings', resolve))
      return { socket, session }
    }
    return { clock, mesh, server, bundles, dial }
  }

  test('closes a silent connection without a certificate and leaves that of a member open', async () => {
    const { clock, mesh, bundles, dial } = await start()
    const { socket: stranger } = await dial(trustMaterial(bundles))
    const { socket: member } = await dial(tlsMaterial(mesh.issue('/member')))
    clock.advance(10_001)
    await new Promise((resolve) => stranger.once('close', resolve))
    expect(member.destroyed).toBe(false)
  })

  test('answers an open call and closes a second later', async () => {
    const { clock, bundles, dial } = await start()
    const { socket, session } = await dial(trustMaterial(bundles))
    const path = `/${IdentityService.typeName}/GetConfiguration`
    const call = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    })
    const answer: Buffer[] = []
    call.on('data', (part: Buffer) => void answer.push(part))
    call.end(emptyMessage)
    await new Promise((resolve) => call.once('end', resolve))
    expect(Buffer.concat(answer).includes('test.internal')).toBe(true)
    expect(socket.destroyed).toBe(false)
    clock.advance(1_001)
    await new Promise((resolve) => socket.once('close', resolve))
  })

  test('answers nothing but the open calls without a certificate', async () => {
    const { clock, bundles, server } = await start()
    const channel = openAnonymousChannel({ target: server, bundles, clock })
    open.push(() => channel.close())
    const { getConfiguration, renew } = IdentityService.method
    expect((await channel.unary(getConfiguration, {})).message.trustDomain).toBe('test.internal')
    await expect(channel.unary(renew, {})).rejects.toMatchObject({ code: 'IDENTITY' })
  })
})

/** One empty message as gRPC frames it: not compressed, no bytes. */
const emptyMessage = Buffer.alloc(5)

function everySecond(): number[][] {
  return Array.from({ length: 60 }, (_, i) => [i * 900, i * 900 + 100])
}
