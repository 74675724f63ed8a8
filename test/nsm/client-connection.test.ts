import { Socket } from 'node:net'
import { expect, test, vi } from 'vitest'
import { ClientConnection } from '../../src/nsm/client-connection.ts'
import { createFakeClock } from '../support/fake-clock.ts'

test('a connection that is dialled does not keep the process: the calls that wait for it do', async () => {
  const socket = new Socket()
  const unref = vi.spyOn(socket, 'unref')
  const closed = Promise.withResolvers<unknown>()
  const events = { onReady() {}, onLeaving() {}, onRoom() {}, onClosed: closed.resolve }
  const connection = new ClientConnection({ open: () => socket, connectedEvent: 'connect' }, createFakeClock(), events)
  expect(unref).toHaveBeenCalledOnce()
  connection.close()
  expect(await closed.promise).toBeUndefined()
})
