import { isIP } from 'node:net'
import { type Clock, pause, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createListeners } from '../base/listeners.ts'
import type { Log } from '../base/log.ts'
import { refusal } from './refusal.ts'
import type { IdentitySource, IdentityState } from './source.ts'
import { stateFromWorkload, type WorkloadChoice, type WorkloadUpdate } from './workload-state.ts'

/* first message --> identity --message--> identity --message without an SVID--> none
 *                      |--stream breaks: the last identity stays, the stream is opened again after 1 s, 2 s, .. 30 s
 * A message that cannot be used is reported and skipped. */

/** Opens the stream of complete states. `USAGE` from it means that asking again is of no use. */
export type WatchWorkload = (signal: AbortSignal) => AsyncIterable<WorkloadUpdate>

/** Everything a Workload API source is made from. */
export interface WorkloadSettings {
  readonly watch: WatchWorkload
  readonly choice?: WorkloadChoice
  readonly clock: Clock
  readonly log: Log
  readonly signal?: AbortSignal
}

/** [go-spiffe workloadapi/backoff.go] Each failure in a row waits this much longer. */
const pauseStepMs = 1_000
/** [go-spiffe workloadapi/backoff.go] */
const pauseMaxMs = 30_000
/** Ours: how long the first identity may take; a workload that was just registered has it within seconds. */
const firstTimeoutMs = 30_000

/**
 * Follows the Workload API and resolves with its first identity. Throws `IDENTITY` when none comes within 30 s, `USAGE`
 * when the socket speaks something else.
 */
export async function followWorkload(settings: WorkloadSettings): Promise<IdentitySource> {
  const { clock, signal } = settings
  const stopping = new AbortController()
  const holder = createHolder(clock)
  const following = follow(settings, holder, stopping.signal)
  const close = async () => {
    stopping.abort()
    await following.catch(() => {})
    holder.forget()
  }
  const ended = following.then((): never => {
    throw noIdentity(holder)
  })
  ended.catch(() => {})
  const waiting = new AbortController()
  const late = sleep(clock, firstTimeoutMs, AbortSignal.any([waiting.signal, ...(signal ? [signal] : [])]))
  try {
    await Promise.race([
      holder.first,
      ended,
      late.then((): never => {
        throw noIdentity(holder)
      }),
    ])
  } catch (error) {
    await close()
    throw error
  } finally {
    waiting.abort()
    late.catch(() => {})
  }
  return { current: holder.current, onChange: holder.onChange, close }
}

/**
 * The address in `SPIFFE_ENDPOINT_SOCKET`: `unix:///path`, `unix:/path` or `tcp://IP:port`; throws `USAGE` for any other.
 * [SPIFFE Workload Endpoint 4]
 */
export function parseEndpointSocket(text: string): { readonly path: string } | { address: string; port: number } {
  const unix = /^unix:(?:\/\/)?(\/(?!\/)[^?#]*)$/.exec(text)?.[1]
  if (unix !== undefined) return { path: unix }
  const tcp = /^tcp:\/\/(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})$/.exec(text)
  const address = tcp?.[1] ?? tcp?.[2] ?? ''
  const port = Number(tcp?.[3])
  if (isIP(address) !== 0 && port > 0 && port < 65_536) return { address, port }
  throw new NsmError(
    'USAGE',
    `${JSON.stringify(text)} is no address of a Workload API`,
    'set SPIFFE_ENDPOINT_SOCKET to unix:///path/to/agent.sock or tcp://IP:port',
  )
}

interface Holder extends Pick<IdentitySource, 'current' | 'onChange'> {
  readonly first: Promise<void>
  set(state: IdentityState | undefined): void
  failed(why: NsmError): void
  why(): NsmError | undefined
  forget(): void
}

/** The present identity, and why there is none. */
function createHolder(clock: Clock): Holder {
  const listeners = createListeners<[IdentityState]>()
  const { promise: first, resolve } = Promise.withResolvers<void>()
  let held: IdentityState | undefined
  let why: NsmError | undefined
  return {
    first,
    current() {
      if (!held) throw noIdentity({ why: () => why })
      if (clock.wallMs() < held.svid.notAfterMs) return held
      const at = new Date(held.svid.notAfterMs).toISOString()
      throw refusal('SVID_EXPIRED', `the identity ${held.svid.spiffeId} expired at ${at}`, { next: agentNext })
    },
    onChange: listeners.add,
    set(state) {
      held = state
      why = undefined
      if (!state) return
      resolve()
      listeners.tell(state)
    },
    failed(error) {
      why = error
    },
    why: () => why,
    forget: listeners.clear,
  }
}

/** Runs until the signal, or until asking again is of no use. */
async function follow(settings: WorkloadSettings, holder: Holder, signal: AbortSignal): Promise<void> {
  const { watch, clock, log } = settings
  for (let failures = 1; !signal.aborted; failures++) {
    try {
      for await (const update of watch(signal)) {
        failures = 1
        take(update, settings, holder)
      }
    } catch (error) {
      if (signal.aborted) return
      const known = toNsmError(error)
      holder.failed(known)
      if (known.code === 'USAGE') throw known
      log.warn('the Workload API does not answer, the last identity stays', { error: known.message })
    }
    await pause(clock, Math.min(failures * pauseStepMs, pauseMaxMs), signal)
  }
}

function take(update: WorkloadUpdate, { choice = {}, clock, log }: WorkloadSettings, holder: Holder): void {
  try {
    const state = stateFromWorkload(update, choice, clock.wallMs())
    holder.set(state)
    if (state) log.info('identity received', { peer: state.svid.spiffeId })
    else log.warn('the Workload API has withdrawn the identity')
  } catch (error) {
    const known = toNsmError(error)
    holder.failed(known)
    log.warn('a message of the Workload API cannot be used, the last identity stays', { error: known.message })
  }
}

const agentNext = 'check that the SPIFFE agent runs and that this workload is registered'

function noIdentity({ why }: Pick<Holder, 'why'>): NsmError {
  const cause = why()
  if (cause?.code === 'USAGE') return cause
  const text = `no identity from the Workload API${cause ? `: ${cause.message}` : ''}`
  return refusal('STATE_INVALID', text, { next: agentNext, cause })
}
