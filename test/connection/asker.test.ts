import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { Asker } from '../../src/connection/asker.ts'
import type { Purpose } from '../../src/connection/lifecycle.ts'
import type { NsmClient } from '../../src/nsm/client.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { FakeClock } from './fake-clock.ts'

const message = create(NetworkServiceRequestSchema)
const answer = create(ConnectionSchema, { id: 'blue' })

/** A manager that answers, or never does. */
function world() {
  const clock = new FakeClock()
  const state = { answers: false, aborted: 0 }
  const client: NsmClient = {
    async request(_request, signal) {
      if (state.answers) return answer
      return new Promise((_, reject) => {
        const stop = () => {
          state.aborted += 1
          reject(signal?.reason)
        }
        if (signal?.aborted) stop()
        signal?.addEventListener('abort', stop, { once: true })
      })
    },
    close: async () => {},
    async *monitor() {},
  }
  const asker = new Asker(client, clock)
  const ask = async (purpose: Purpose, signal = new AbortController().signal) => {
    const beganMs = clock.nowMs
    let waitedMs = -1
    const asking = asker.request(message, purpose, signal).then(
      (connection) => connection,
      (error: unknown) => {
        waitedMs = clock.nowMs - beganMs
        return error
      },
    )
    await clock.advance(16_000)
    return { result: waitedMs < 0 && !state.answers ? undefined : await asking, waitedMs }
  }
  return { clock, state, asker, ask }
}

describe('Asker', () => {
  test.each<Purpose>(['first', 'refresh', 'renew'])('leaves the wait for a %s to the call itself', async (purpose) => {
    const { ask, clock } = world()
    expect(await ask(purpose)).toEqual({ result: undefined, waitedMs: -1 })
    expect(clock.nextMs()).toBeUndefined()
  })

  test('waits shortly for another endpoint, longer each time that none comes, and never beyond 15 s', async () => {
    const { ask, state } = world()
    const waited: number[] = []
    for (let i = 0; i < 6; i++) waited.push((await ask('reselect')).waitedMs)
    expect(waited).toEqual([2_500, 5_000, 10_000, 15_000, 15_000, 15_000])
    expect(state.aborted).toBe(6)
  })

  test('says what it waited for, so that the service is asked for again', async () => {
    const { result } = await world().ask('reselect')
    expect(result).toMatchObject({ code: 'UNREACHABLE', message: 'the manager had no other endpoint within 2.5 s' })
  })

  test('is as impatient as at first once an endpoint came', async () => {
    const { ask, state } = world()
    await ask('reselect')
    await ask('reselect')
    state.answers = true
    expect(await ask('reselect')).toMatchObject({ result: { id: 'blue' } })
    state.answers = false
    expect((await ask('reselect')).waitedMs).toBe(2_500)
  })

  test('ends with the reason of its caller and leaves no timer', async () => {
    const { asker, clock } = world()
    const stop = new AbortController()
    const asking = asker.request(message, 'reselect', stop.signal).catch((error: unknown) => error)
    await clock.advance(100)
    stop.abort(new NsmError('LOST', 'closing', 'nothing'))
    expect(await asking).toMatchObject({ code: 'LOST' })
    expect(clock.nextMs()).toBeUndefined()
  })
})
