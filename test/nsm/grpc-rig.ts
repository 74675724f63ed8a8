import { afterEach } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import type { MethodBinding } from '../../src/nsm/grpc.ts'
import { openWireCaller } from '../support/wire-caller.ts'
import { TestMesh } from './mesh.ts'

/** What the tests of a file have opened; closed after each. */
export const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** A server of these methods and a client that knows nothing of our own gRPC. */
export async function start(services: readonly MethodBinding[], clock: Clock = systemClock) {
  const mesh = new TestMesh('test.internal', clock)
  closing.push(() => mesh.close())
  const server = await mesh.serve(services)
  const dial = async (ttlMs?: number) => {
    const caller = await openWireCaller(server, mesh.issue('/client', ttlMs).svid, 'spiffe://test.internal/manager')
    closing.push(() => caller.close())
    return caller
  }
  return { mesh, server, dial, caller: await dial() }
}
