import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { thisMachine } from '../../src/connection/machine.ts'
import { freePort } from '../support/free-port.ts'

test('two connections that ask for a UDP port at once get two', async () => {
  const wanted = await freePort()
  const ports = await Promise.all([1, 2, 3].map(() => thisMachine.freeUdpPort(wanted)))
  expect(ports[0]).toBe(wanted)
  expect(new Set(ports).size).toBe(3)
})

test('a UDP port that another program holds is not offered', async () => {
  const socket = createSocket('udp4').bind(0)
  await once(socket, 'listening')
  const { port } = socket.address()
  expect(await thisMachine.freeUdpPort(port)).not.toBe(port)
  socket.close()
})
