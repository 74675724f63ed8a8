import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import type { Channel } from '../../src/nsm/channel.ts'
import { ConnectionEventSchema, MonitorConnection } from '../../src/nsm/generated/connection_pb.js'
import { serverStream } from '../../src/nsm/grpc.ts'
import { createWatchChannels } from '../../src/registry/watch-channels.ts'
import { TestMesh } from '../nsm/mesh.ts'

/** A server whose watches give one event and then wait, and a count of the channels to it. */
async function startServer() {
  const mesh = new TestMesh()
  const server = await mesh.serve([
    serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
      yield create(ConnectionEventSchema)
      await new Promise((resolve) => call.signal.addEventListener('abort', resolve, { once: true }))
    }),
  ])
  const open = new Set<Channel>()
  let dialed = 0
  const watches = createWatchChannels(() => {
    const channel = mesh.channel(server)
    dialed++
    open.add(channel)
    const close = () => {
      open.delete(channel)
      channel.close()
    }
    return { ...channel, close }
  })
  const watch = async () => {
    const events = watches.monitor({})[Symbol.asyncIterator]()
    await events.next()
    return async () => void (await events.return?.())
  }
  return { mesh, watches, watch, open, dialed: () => dialed }
}

describe('watch channels', () => {
  test('carry 64 watches each, and close with the last one', async () => {
    const { mesh, watch, open, dialed } = await startServer()
    const stops = await Promise.all(Array.from({ length: 130 }, watch))
    expect([dialed(), open.size]).toEqual([3, 3])
    await Promise.all(stops.slice(0, 64).map((stop) => stop()))
    expect(open.size).toBe(2)
    await watch()
    expect([dialed(), open.size]).toEqual([3, 2])
    await mesh.close()
  })

  test('end every watch when they are closed', async () => {
    const { mesh, watches, open } = await startServer()
    const events = watches.monitor({})[Symbol.asyncIterator]()
    await events.next()
    const ended = events.next()
    watches.close()
    await expect(ended).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(open.size).toBe(0)
    await mesh.close()
  })
})
