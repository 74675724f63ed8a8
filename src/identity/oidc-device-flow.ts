import { type Clock, sleep } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import {
  errorWord,
  findEndpoints,
  type LoginIssuer,
  type LoginTokens,
  loginFailed,
  postForm,
  tokensOf,
} from './oidc-provider.ts'

/** What a person is shown: the page to open anywhere, and the code to compare there. */
export interface DevicePrompt {
  readonly page: string
  readonly code: string
}

/** [RFC 8628 3.2] [RFC 8628 3.5] */
const defaultIntervalMs = 5_000
const slowDownMs = 5_000
/** Ours: an issuer that names no end, or one far away, is asked no longer. */
const waitMaxMs = 1_800_000

/** A login on another device [RFC 8628]; throws `IDENTITY` when it is refused or takes too long, `UNREACHABLE`. */
export async function loginByDevice(
  issuer: LoginIssuer,
  around: { readonly show: (prompt: DevicePrompt) => void; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<LoginTokens> {
  const { show, clock, signal } = around
  const { device, token, scope } = await findEndpoints(issuer)
  if (device === undefined) throw loginFailed('the issuer has no login by device: nsm login --method browser')
  const client = { client_id: issuer.clientId }
  const begun = await postForm(device, { ...client, scope }, signal)
  const { device_code: secret, user_code: code, verification_uri: page } = begun
  if (typeof secret !== 'string' || !isShowable(code) || !isPage(page)) {
    throw loginFailed(`the issuer began no login (${errorWord(begun['error'])})`)
  }
  show({ page, code })
  const endsMs = clock.monotonicMs() + Math.min(waitMaxMs, millisecondsOf(begun['expires_in'], waitMaxMs))
  let intervalMs = millisecondsOf(begun['interval'], defaultIntervalMs)
  const form = { ...client, grant_type: 'urn:ietf:params:oauth:grant-type:device_code', device_code: secret }
  while (clock.monotonicMs() + intervalMs < endsMs) {
    await sleep(clock, intervalMs, signal)
    const answer = await postForm(token, form, signal).catch((error: unknown) => unlessUnreachable(error, signal))
    if (!answer) intervalMs *= 2
    else if (answer['error'] === 'slow_down') intervalMs += slowDownMs
    else if (answer['error'] !== 'authorization_pending') return tokensOf(answer)
  }
  throw loginFailed('nobody confirmed the login in time')
}

/** [RFC 8628 3.5] A network that fails for a while ends no login; it is asked half as often. */
function unlessUnreachable(error: unknown, signal: AbortSignal): undefined {
  if (signal.aborted || toNsmError(error).code !== 'UNREACHABLE') throw error
}

/** Both are printed to a terminal. */
function isShowable(code: unknown): code is string {
  return typeof code === 'string' && /^[!-~]{1,64}$/.test(code)
}

function isPage(page: unknown): page is string {
  return typeof page === 'string' && /^https?:\/\/[!-~]{1,2048}$/.test(page)
}

function millisecondsOf(seconds: unknown, otherwise: number): number {
  return typeof seconds === 'number' && seconds > 0 ? seconds * 1000 : otherwise
}
