import { timestampMs } from '@bufbuild/protobuf/wkt'
import { type Clock, pause, sleep } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { RegistryClient } from './client.ts'
import type { Registry } from './registry.ts'

/** What is copied from where to where. */
export interface MirrorParts {
  readonly from: RegistryClient
  readonly to: Registry
  /** SPIFFE ID in whose name the copies stand. */
  readonly owner: string
  /** Endpoints that are not copied: our own, which the other registry has from us. */
  readonly isOwn: (endpointName: string) => boolean
  readonly clock: Clock
  readonly log: Log
}

/** Ours: pauses between tries while the other registry does not answer. */
const pauseFirstMs = 200
const pauseMaxMs = 5_000
/** Ours: services change rarely, and have no watch here. */
const servicesEveryMs = 60_000

/**
 * Keeps a copy of another registry: endpoints as they come and go, services every minute. While the other one is away its
 * endpoints end by themselves, and those that are registered here go on. The result ends it.
 */
export function mirrorRegistry(parts: MirrorParts): () => Promise<void> {
  const stopping = new AbortController()
  const copies = [keep(parts, copyServices, stopping.signal), keep(parts, copyEndpoints, stopping.signal)]
  return async () => {
    stopping.abort()
    await Promise.all(copies)
  }
}

type Copy = (parts: MirrorParts, signal: AbortSignal, onAnswer: () => void) => Promise<void>

async function keep(parts: MirrorParts, copy: Copy, signal: AbortSignal): Promise<void> {
  let pauseMs = pauseFirstMs
  const onAnswer = () => {
    pauseMs = pauseFirstMs
  }
  while (!signal.aborted) {
    await copy(parts, signal, onAnswer).catch((error: unknown) => {
      // Said once for each time it goes away.
      const level = pauseMs === pauseFirstMs ? 'warn' : 'debug'
      if (!signal.aborted) parts.log[level]('the registry cannot be copied', { error: toNsmError(error).message })
    })
    await pause(parts.clock, pauseMs, signal)
    pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
  }
}

async function copyServices(parts: MirrorParts, signal: AbortSignal, onAnswer: () => void): Promise<void> {
  const { from, to, owner } = parts
  for (const service of await from.findServices({}, signal)) accept(parts, () => to.registerService(service, owner))
  onAnswer()
  await sleep(parts.clock, servicesEveryMs, signal)
}

async function copyEndpoints(parts: MirrorParts, signal: AbortSignal, onAnswer: () => void): Promise<void> {
  const { from, to, owner, isOwn } = parts
  for await (const { entry, deleted } of from.watchEndpoints({}, signal)) {
    onAnswer()
    if (isOwn(entry.name)) continue
    const endMs = entry.expirationTime ? timestampMs(entry.expirationTime) : Number.POSITIVE_INFINITY
    if (deleted) accept(parts, () => to.unregisterEndpoint(entry.name, owner))
    else if (endMs > parts.clock.wallMs()) accept(parts, () => to.registerEndpoint(entry, owner, endMs))
  }
}

/** One entry that is not taken, because its name is somebody's here, does not keep the others away. */
function accept(parts: MirrorParts, take: () => unknown): void {
  try {
    take()
  } catch (error) {
    parts.log.debug('an entry was not copied', { error: toNsmError(error).message })
  }
}
