import type { MessageInitShape } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import { type Clock, pause, sleep } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type {
  NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import type { RegistryClient } from './client.ts'

/* registered --2/3 of the time to its end--> register again      (the answer gives the next end)
 *     |---- the watch on the own name breaks, says deleted, or does not show it --> register again, with pauses that grow */

/** A registration that is kept up; `stop` takes it back. */
export interface Registration {
  stop(): Promise<void>
}

/** Ours: pauses between tries while the registry does not answer. */
const pauseFirstMs = 200
const pauseMaxMs = 5_000
/** Ours: what a registration may cost when it is taken back. */
const stopTimeoutMs = 3_000
/** [NSM sdk registry/common/refresh] Part of the life after which it is refreshed. */
const refreshPart = 2 / 3
/** Ours: a registry that gives no end, or one in the past, is asked again after this. */
const refreshMinMs = 1_000

/** Registers services and their endpoint, and keeps that up; the first time throws what the registry says. */
export async function keepRegistered(parts: {
  readonly client: RegistryClient
  readonly services: readonly MessageInitShape<typeof NetworkServiceSchema>[]
  readonly endpoint: MessageInitShape<typeof NetworkServiceEndpointSchema> & { readonly name: string }
  readonly clock: Clock
  readonly log: Log
  readonly signal?: AbortSignal
}): Promise<Registration> {
  const { client, clock, endpoint, log } = parts
  const stopping = new AbortController()
  const register = async (signal: AbortSignal) => {
    for (const service of parts.services) await client.registerService(service, signal)
    return client.registerEndpoint(endpoint, signal)
  }
  const first = await register(parts.signal ?? stopping.signal)
  const kept = keep(
    { first, register, watch: (signal) => lost({ client, name: endpoint.name, clock }, signal), clock, log },
    stopping.signal,
  )
  return {
    async stop() {
      if (stopping.signal.aborted) return
      stopping.abort()
      await kept
      await client.unregisterEndpoint(endpoint, AbortSignal.timeout(stopTimeoutMs)).catch((error: unknown) => {
        log.warn('endpoint could not be unregistered', { endpoint: endpoint.name, error: toNsmError(error).message })
      })
    },
  }
}

interface Keeping {
  readonly first: NetworkServiceEndpoint
  readonly register: (signal: AbortSignal) => Promise<NetworkServiceEndpoint>
  readonly watch: (signal: AbortSignal) => Promise<void>
  readonly clock: Clock
  readonly log: Log
}

async function keep(keeping: Keeping, signal: AbortSignal): Promise<void> {
  const { clock } = keeping
  let registered = keeping.first
  let pauseMs = pauseFirstMs
  while (!signal.aborted) {
    await dueOrLost(keeping, registered, signal)
    for (let done = false; !done && !signal.aborted; ) {
      try {
        registered = await keeping.register(signal)
        pauseMs = pauseFirstMs
        done = true
      } catch (error) {
        if (signal.aborted) return
        keeping.log.warn('registration failed, trying again', { error: toNsmError(error).message, pauseMs })
        await pause(clock, pauseMs, signal)
        pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
      }
    }
  }
}

/** Waits for the refresh to be due, or for the registry to lose the registration. */
async function dueOrLost(keeping: Keeping, registered: NetworkServiceEndpoint, signal: AbortSignal): Promise<void> {
  const { clock } = keeping
  const over = new AbortController()
  const waiting = AbortSignal.any([signal, over.signal])
  const endMs = registered.expirationTime ? timestampMs(registered.expirationTime) : 0
  const delayMs = Math.max(refreshMinMs, (endMs - clock.wallMs()) * refreshPart)
  const due = sleep(clock, delayMs, waiting)
  const lost = sleep(clock, refreshMinMs, waiting).then(() => keeping.watch(waiting))
  await Promise.race([due, lost]).catch(() => {})
  over.abort()
  await Promise.allSettled([due, lost])
}

/** Ours: a watch begins with what is there, so a name that does not show by then was forgotten, as in a restart. */
const shownWithinMs = 5_000

/** Resolves when the stream breaks, the registry drops the name, or has forgotten it. */
async function lost(
  { client, name, clock }: { readonly client: RegistryClient; readonly name: string; readonly clock: Clock },
  signal: AbortSignal,
): Promise<void> {
  const forgotten = new AbortController()
  const cancel = clock.after(shownWithinMs, () => forgotten.abort())
  try {
    for await (const found of client.watchEndpoints({ name }, AbortSignal.any([signal, forgotten.signal]))) {
      if (found.deleted) return
      cancel()
    }
  } catch {
  } finally {
    cancel()
  }
}
