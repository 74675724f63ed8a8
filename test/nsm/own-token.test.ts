import { expect, test } from 'vitest'
import { decodeToken } from '../../src/identity/token.ts'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import type { HopToken, OwnHop } from '../../src/nsm/peer.ts'
import { FakeClock, TestMesh } from './mesh.ts'

test('a server sends one caller the same token for 5 s, then a fresh one, each for its audience only', async () => {
  const clock = new FakeClock()
  const mesh = new TestMesh('test.internal', clock)
  const audiences = Array.from({ length: 10 }, (_, i) => `spiffe://test.internal/${i}`)
  const audiencesOf = (own: OwnHop) => audiences.map((audience) => decodeToken(own.token(audience).token).aud)
  const given: HopToken[] = []
  const server = await mesh.serve([
    unary(NetworkService.method.close, async (_connection, { own, peer }) => {
      if (given.length === 0) expect(audiencesOf(own)).toEqual(audiences.map((audience) => [audience]))
      given.push(own.token(peer.spiffeId))
      return {}
    }),
  ])
  const channel = mesh.channel(server)
  for (const waitMs of [0, 4_999, 1]) {
    clock.advance(waitMs)
    await channel.unary(NetworkService.method.close, {})
  }
  await mesh.close()
  const [first, again, fresh] = given
  expect(again).toEqual(first)
  expect(fresh?.token).not.toBe(first?.token)
  expect(fresh?.expiresMs).toBe((first?.expiresMs ?? 0) + 5_000)
})
