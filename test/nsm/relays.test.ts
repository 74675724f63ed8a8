import { afterEach, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openAdmission } from '../../src/nsm/admission.ts'
import { Health } from '../../src/nsm/generated/health_pb.js'
import { startNsmServer } from '../../src/nsm/server.ts'
import { TestMesh } from './mesh.ts'

let mesh: TestMesh | undefined
afterEach(() => mesh?.close())

/** More connections than one identity may have, fewer than one address may open at once. */
const connections = 70

test.each([
  ['a relay has', ['spiffe://test.internal/nsmgr'], connections],
  ['another has not', [], 64],
])('a server with relays: %s a connection for each call that it passes on', async (_who, relays, expected) => {
  const current = new TestMesh()
  mesh = current
  const { clock } = current
  const source = current.source('/manager')
  const listen = { address: '127.0.0.1', port: 0 }
  const server = await startNsmServer({
    source,
    listen,
    services: [],
    admission: openAdmission({ relays }),
    clock,
    log: silentLog,
  })
  current.onClose(() => server.stop())
  const caller = current.source('/nsmgr')
  let answered = 0
  for (let i = 0; i < connections; i++) {
    const channel = current.channel(server, caller)
    await channel.unary(Health.method.check, {}, { wait: false }).then(
      () => answered++,
      () => {},
    )
  }
  expect(answered).toBe(expected)
})
