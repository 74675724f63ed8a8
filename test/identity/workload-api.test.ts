import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import type { IdentitySource } from '../../src/identity/source.ts'
import { followWorkload, parseEndpointSocket } from '../../src/identity/workload-api.ts'
import type { WorkloadUpdate } from '../../src/identity/workload-state.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { reasonOf, rejectionOf } from './fixtures.ts'
import { updateOf, workloadAuthority } from './workload-fixtures.ts'

const silent = new NsmError('UNREACHABLE', 'the agent does not answer', 'start it')
const unregistered = new NsmError('IDENTITY', 'the agent has no identity for this workload', 'register it')
const useless = new NsmError('USAGE', 'this is no Workload API', 'give another socket')

/** What one stream does: messages, then an error, or nothing more until it is closed. */
type Script = readonly (WorkloadUpdate | NsmError)[]

/** A Workload API that plays one script for each stream; `push` sends on the open one. */
function scripted(...scripts: Script[]) {
  const opened: number[] = []
  const clock = createFakeClock(Date.now())
  let push = (_message: WorkloadUpdate | NsmError) => {}
  async function* watch(signal: AbortSignal): AsyncGenerator<WorkloadUpdate> {
    opened.push(clock.wallMs())
    const queue = [...(scripts[opened.length - 1] ?? [silent])]
    for (;;) {
      const next = queue.shift()
      if (next instanceof NsmError) throw next
      if (next) yield next
      else {
        const sent = await new Promise<WorkloadUpdate | NsmError>((resolve) => {
          push = resolve
          signal.addEventListener('abort', () => resolve(silent), { once: true })
        })
        queue.push(sent)
      }
    }
  }
  const follow = (choice = {}) => followWorkload({ watch, choice, clock, log: silentLog })
  const send = async (message: WorkloadUpdate | NsmError) => {
    push(message)
    await clock.advance(0)
  }
  return { clock, follow, send, opened }
}

const { svid } = workloadAuthority('a.example')
const idOf = (source: IdentitySource) => source.current().svid.spiffeId

/** Moves the clock until the promise settles. */
async function settle<T>(clock: FakeClock, promise: Promise<T>): Promise<T> {
  let done = false
  const marked = promise.finally(() => {
    done = true
  })
  marked.catch(() => {})
  while (!done) await clock.advance(500)
  return marked
}

describe('followWorkload', () => {
  test('resolves with the first identity and tells of each later one', async () => {
    const agent = scripted([updateOf(svid('/one'))])
    const source = await agent.follow()
    expect(idOf(source)).toBe('spiffe://a.example/one')
    const seen: string[] = []
    source.onChange(({ svid }) => seen.push(svid.spiffeId))
    await agent.send(updateOf(svid('/two')))
    expect([idOf(source), ...seen]).toEqual(['spiffe://a.example/two', 'spiffe://a.example/two'])
    await source.close()
  })

  test('has no identity after a message without one, until the next', async () => {
    const agent = scripted([updateOf(svid('/one'))])
    const source = await agent.follow()
    await agent.send(updateOf())
    expect(() => source.current()).toThrow(/no identity from the Workload API/)
    await agent.send(updateOf(svid('/one')))
    expect(idOf(source)).toBe('spiffe://a.example/one')
    await source.close()
  })

  test('skips a message that cannot be used', async () => {
    const agent = scripted([updateOf({ ...svid('/zero'), chain: new Uint8Array() }), updateOf(svid('/one'))])
    const source = await agent.follow()
    await agent.send(updateOf({ ...svid('/two'), bundle: new Uint8Array() }))
    expect(idOf(source)).toBe('spiffe://a.example/one')
    await source.close()
  })

  test('keeps the last identity while the agent is away, and stops with its end', async () => {
    const agent = scripted([updateOf(svid('/one', '', 60_000)), silent])
    const source = await agent.follow()
    await agent.clock.advance(59_000)
    expect(idOf(source)).toBe('spiffe://a.example/one')
    await agent.clock.advance(2_000)
    expect(reasonOf(() => source.current())).toBe('SVID_EXPIRED')
    await source.close()
  })

  test('asks again after 1 s, 2 s, and so on up to 30 s; a message starts that anew', async () => {
    const agent = scripted([updateOf(svid('/one')), silent], [silent], [updateOf(svid('/two')), silent])
    const source = await agent.follow()
    await agent.clock.advance(1_000_000)
    const pauses = agent.opened.slice(1).map((atMs, i) => (atMs - (agent.opened[i] ?? 0)) / 1_000)
    expect(pauses.slice(0, 6)).toEqual([1, 2, 1, 2, 3, 4])
    expect(Math.max(...pauses)).toBe(30)
    await source.close()
  })

  test('waits for a workload that is not registered yet', async () => {
    const agent = scripted([unregistered], [unregistered], [updateOf(svid('/one'))])
    const source = await settle(agent.clock, agent.follow())
    expect(idOf(source)).toBe('spiffe://a.example/one')
    await source.close()
  })

  test('gives up after 30 s and says what the agent said', async () => {
    const agent = scripted(...Array<Script>(60).fill([unregistered]))
    const startMs = agent.clock.wallMs()
    await expect(settle(agent.clock, agent.follow())).rejects.toMatchObject({
      code: 'IDENTITY',
      message: 'no identity from the Workload API: the agent has no identity for this workload',
    })
    expect(agent.clock.wallMs() - startMs).toBeGreaterThanOrEqual(30_000)
    expect(agent.clock.waiting).toBe(0)
  })

  test('gives up at once where asking again is of no use', async () => {
    const agent = scripted([useless], [updateOf(svid('/one'))])
    await expect(agent.follow()).rejects.toMatchObject({ code: 'USAGE' })
    expect(agent.opened).toHaveLength(1)
  })

  test('gives up when the choice fits nothing', async () => {
    const agent = scripted([updateOf(svid('/one'))])
    expect(await rejectionOf(settle(agent.clock, agent.follow({ hint: 'other' })))).toBe('STATE_INVALID')
  })

  test('ends with the caller’s signal and leaves no timer', async () => {
    const agent = scripted([unregistered])
    const stop = new AbortController()
    async function* watch(): AsyncGenerator<WorkloadUpdate> {
      yield* []
      throw unregistered
    }
    const { clock } = agent
    const following = followWorkload({ watch, clock, log: silentLog, signal: stop.signal })
    await clock.advance(0)
    stop.abort(new NsmError('LOST', 'stopped', 'start again'))
    await expect(following).rejects.toMatchObject({ code: 'LOST' })
    expect(clock.waiting).toBe(0)
  })
})

describe('parseEndpointSocket', () => {
  test.each([
    ['unix:///run/spire/agent.sock', { path: '/run/spire/agent.sock' }],
    ['unix:/run/spire/agent.sock', { path: '/run/spire/agent.sock' }],
    ['tcp://127.0.0.1:8000', { address: '127.0.0.1', port: 8_000 }],
    ['tcp://[::1]:8000', { address: '::1', port: 8_000 }],
  ])('reads %s', (text, expected) => {
    expect(parseEndpointSocket(text)).toEqual(expected)
  })

  test.each([
    '',
    '/run/spire/agent.sock',
    'unix://host/run/agent.sock',
    'unix:agent.sock',
    'unix:///agent.sock?x=1',
    'tcp://localhost:8000',
    'tcp://127.0.0.1',
    'tcp://127.0.0.1:0',
    'tcp://127.0.0.1:65536',
    'tcp://127.0.0.1:8000/path',
    'tcp://user@127.0.0.1:8000',
    'https://127.0.0.1:8000',
  ])('refuses %j', (text) => {
    expect(reasonOf(() => parseEndpointSocket(text))).toBe('USAGE')
  })
})
