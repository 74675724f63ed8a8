import { join } from 'node:path'
import { pause } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { within } from '../base/within.ts'
import type { Channel } from '../nsm/channel.ts'
import { SiteService } from '../nsm/generated/site_pb.js'
import { type PolicyInForceParts, policyOfDomain, putInForce, refuseRelays, withoutPolicy } from './policy-in-force.ts'
import type { Around } from './serve-home.ts'
import type { ServePolicy } from './serve-policy.ts'
import type { ServeSettings } from './serve-settings.ts'

/** Whose policy, and from where. */
export interface SitePolicyParts extends Around, PolicyInForceParts {
  /** To the first site. */
  readonly channel: Channel
}

/** The policy of the first site, as it is followed by a further one. */
export interface SitePolicy extends Omit<ServePolicy, 'text'> {
  /** Resolves when the first site has got or given up a policy: then this server starts again. */
  readonly failed: Promise<NsmError>
}

/** Ours: a first site that does not say its policy in this time is taken as away. */
const askTimeoutMs = 5_000
/** Ours: pause before a broken stream is opened again. */
const reopenPauseMs = 1_000
/** Where the policy comes from, for whoever reads of it. */
const origin = 'the policy of the first site'

/**
 * Asks the first site for its policy and follows it. While that one is away the last one it told counts, also after a
 * restart. Throws `UNREACHABLE` when it never told one.
 */
export async function openSitePolicy(
  settings: Pick<ServeSettings, 'stateDir' | 'relays'>,
  parts: SitePolicyParts,
): Promise<SitePolicy> {
  const { trustDomain, log } = parts
  const { stateDir, relays = [] } = settings
  const path = join(stateDir, 'site-policy.txt')
  const first = await firstText(path, parts)
  const failed = Promise.withResolvers<NsmError>()
  const follow = (onText: (text: string) => Promise<void>) => {
    const stop = new AbortController()
    const ended = followTexts(parts, onText, stop.signal)
    parts.undo.push(async () => {
      stop.abort()
      await ended
    })
  }
  const turned = async (text: string) => {
    await writeFileAtomic(path, text)
    const what = `the first site has ${text === '' ? 'no policy any more' : 'a policy now'}`
    failed.resolve(new NsmError('CONFLICT', what, 'start this server again'))
  }
  const more = { reload: async () => {}, failed: failed.promise }
  if (first === '') {
    follow(async (text) => void (text !== '' && (await turned(text))))
    return { ...withoutPolicy(relays, trustDomain), ...more }
  }
  refuseRelays(relays)
  const read = async (text: string) => ({ text, policy: (await policyOfDomain(text, origin, trustDomain)).policy })
  const { replace, ...inForce } = putInForce(origin, await read(first), parts)
  follow(async (text) => {
    if (text === '') return turned(text)
    if (text === inForce.text()) return
    await replace(() => read(text))
    if (text !== inForce.text()) return
    await writeFileAtomic(path, text).catch((error: unknown) =>
      log.error('the policy is in force, but not stored', { path, error: toNsmError(error).message }),
    )
  })
  return { ...inForce, ...more }
}

async function firstText(path: string, { channel, clock }: SitePolicyParts): Promise<string> {
  const stored = await readPrivateFile(path)
  const late = () => new NsmError('UNREACHABLE', 'the first site does not say its policy', 'start the first site')
  try {
    const text = await within({ clock, limitMs: askTimeoutMs, late }, (signal) => nextText(channel, signal))
    await writeFileAtomic(path, text)
    return text
  } catch (error) {
    if (stored === undefined || (error instanceof NsmError && error.code === 'REFUSED')) throw error
    return stored
  }
}

async function nextText(channel: Channel, signal: AbortSignal): Promise<string> {
  for await (const { text } of channel.stream(SiteService.method.watchPolicy, {}, { signal })) return text
  throw new NsmError('UNREACHABLE', 'the first site does not say its policy', 'start the first site')
}

async function followTexts(
  { channel, clock, log }: SitePolicyParts,
  onText: (text: string) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const { text } of channel.stream(SiteService.method.watchPolicy, {}, { signal })) await onText(text)
    } catch (error) {
      if (!signal.aborted) log.debug('the policy is not followed', { error: toNsmError(error).message })
    }
    await pause(clock, reopenPauseMs, signal)
  }
}
