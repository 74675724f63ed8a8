import { afterAll, describe, expect, test } from 'vitest'
import { decodeToken } from '../../src/identity/token.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { type ScriptedCall, startScriptedServer } from '../support/scripted-server.ts'
import { firstRequest, TestMesh } from './mesh.ts'

/* One line, seen by a server that is not ours. */

const mesh = new TestMesh()
afterAll(() => mesh.close())

const serve = async (path: string, onCall: (call: ScriptedCall) => void) => {
  const server = await startScriptedServer(mesh.issue(path).svid, onCall)
  mesh.onClose(() => server.close())
  return server
}
const ok = (call: ScriptedCall) => {
  call.send(new Uint8Array())
  call.end()
}

describe('a line', () => {
  test('is closed without a Close call, which is a method of NetworkService', async () => {
    const server = await serve('/manager', (call) => {
      if (call.method.endsWith('/Close')) ok(call)
    })
    const channel = mesh.channel(server)
    await channel.unary(NetworkService.method.close, {})
    expect([server.seen.length, server.connections]).toEqual([1, 1])
    channel.close()
    await expect.poll(() => server.connections).toBe(0)
    expect(server.seen).toEqual(['/networkservice.NetworkService/Close'])
  })

  test('ends what is under way when it is closed, and sends no Close for it', async () => {
    const server = await serve('/manager', () => {})
    const channel = mesh.channel(server)
    const asking = createNsmClient(channel).request(firstRequest())
    await expect.poll(() => server.seen.length).toBe(1)
    channel.close()
    await expect(asking).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await expect.poll(() => server.connections).toBe(0)
    expect(server.seen).toEqual(['/networkservice.NetworkService/Request'])
  })

  test('knows the server by its SPIFFE ID, though it dials an IP address, and Node has nothing to warn of', async () => {
    const warnings: string[] = []
    const note = (warning: Error) => void warnings.push(warning.message)
    process.on('warning', note)
    const server = await serve('/some/manager', ok)
    const { server: peer } = await mesh.channel(server).unary(NetworkService.method.close, {})
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', note)
    expect(peer.spiffeId).toBe('spiffe://test.internal/some/manager')
    expect(warnings).toEqual([])
  })

  test('verifies the chain of a server that has the right name only', async () => {
    const impostor = new TestMesh()
    const server = await startScriptedServer(impostor.issue('/manager').svid, ok)
    mesh.onClose(() => server.close())
    await expect(mesh.channel(server).unary(NetworkService.method.close, {})).rejects.toMatchObject({
      code: 'IDENTITY',
    })
    expect(server.seen).toEqual([])
  })

  test('makes the token of its first call for the server whom the handshake showed, with both metadata', async () => {
    for (const path of ['/manager', '/another']) {
      const seen: ScriptedCall['metadata'][] = []
      const server = await serve(path, (call) => {
        seen.push(call.metadata)
        ok(call)
      })
      await mesh.channel(server).unary(NetworkService.method.close, {})
      const [{ 'nsm-client-token': token, 'nsm-client-token-expires': expires } = {}] = seen
      const { aud, expMs } = decodeToken(String(token))
      expect(aud).toEqual([`spiffe://test.internal${path}`])
      expect(Math.floor(Date.parse(String(expires)) / 1_000)).toBe(expMs / 1_000)
    }
  })

  test('asks for HTTP/2 by ALPN and says what it sends', async () => {
    const seen: ScriptedCall['metadata'][] = []
    const server = await serve('/manager', (call) => {
      seen.push(call.metadata)
      ok(call)
    })
    await mesh.channel(server).unary(NetworkService.method.close, {})
    expect(seen).toMatchObject([{ ':method': 'POST', te: 'trailers', 'content-type': 'application/grpc' }])
  })
})
