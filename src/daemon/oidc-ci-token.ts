import { readFile } from 'node:fs/promises'
import { NsmError } from '../base/errors.ts'
import type { Environment } from '../base/settings.ts'
import { joinLine, parseJoinString } from '../identity/join-string.ts'
import { audienceOf, idTokenMaxCharacters } from '../identity/oidc-token.ts'

/** Where an ID token may be found. */
export interface TokenPlaces {
  readonly environment: Environment
  /** `--token-file`; `-` is standard input. */
  readonly tokenFile: string | undefined
  readonly readInput: () => Promise<string>
  readonly signal: AbortSignal
}

/** An ID token and the place it came from. */
export interface FoundToken {
  readonly idToken: string
  readonly from: string
}

/**
 * The ID token that this machine can show to the server of a join string that carries no token: the first of the named
 * file, GitHub Actions, GitLab and the Kubernetes volume. It is read anew for each call and stored nowhere. Throws `USAGE`,
 * `IDENTITY` when a platform refuses, `UNREACHABLE`.
 */
export async function findIdToken(joinString: string, places: TokenPlaces): Promise<FoundToken | undefined> {
  const line = joinLine(joinString)
  if (/[?&]jt=/.test(line)) return undefined
  const { trustDomain } = parseJoinString(line)
  const { environment, tokenFile } = places
  if (tokenFile !== undefined) return found(await readTokenFile(tokenFile, places.readInput), tokenFile)
  if (environment['ACTIONS_ID_TOKEN_REQUEST_URL']) {
    return found(await askGitHub(audienceOf(trustDomain), places), 'GitHub Actions')
  }
  if (environment['NSM_ID_TOKEN']) return found(environment['NSM_ID_TOKEN'], 'NSM_ID_TOKEN')
  const projected = await readFile(projectedTokenPath, 'utf8').catch(() => undefined)
  if (projected !== undefined) return found(projected, projectedTokenPath)
  explainAbsence(environment)
  return undefined
}

/** Ours: where docs/identity.md mounts the projected token of a pod. The kubelet replaces it, so it is read each time. */
export const projectedTokenPath = '/var/run/secrets/nsm/token'

/** Ours: GitHub answers in well under a second. */
const askTimeoutMs = 10_000

async function askGitHub(audience: string, { environment, signal }: TokenPlaces): Promise<string> {
  const url = new URL(environment['ACTIONS_ID_TOKEN_REQUEST_URL'] ?? '')
  url.searchParams.set('audience', audience)
  const headers = { authorization: `bearer ${environment['ACTIONS_ID_TOKEN_REQUEST_TOKEN'] ?? ''}` }
  const limit = AbortSignal.any([signal, AbortSignal.timeout(askTimeoutMs)])
  const response = await fetch(url, { headers, redirect: 'error', signal: limit }).catch((cause: unknown) => {
    throw new NsmError('UNREACHABLE', `GitHub's token service at ${url.host} does not answer`, 'run the job again', {
      cause,
    })
  })
  const answer: unknown = await response.json().catch(() => undefined)
  if (response.ok && typeof answer === 'object' && answer !== null && 'value' in answer) return String(answer.value)
  throw new NsmError(
    'IDENTITY',
    `GitHub's token service gave no token (status ${response.status})`,
    'give the job `permissions: id-token: write`',
  )
}

async function readTokenFile(path: string, readInput: () => Promise<string>): Promise<string> {
  if (path === '-') return readInput()
  return readFile(path, 'utf8').catch((cause: unknown) => {
    throw new NsmError('USAGE', `${path} cannot be read`, 'check the path and its permissions', { cause })
  })
}

/** The token is not quoted, whatever it is. */
function found(text: string, from: string): FoundToken {
  const idToken = text.trim()
  if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(idToken) && idToken.length <= idTokenMaxCharacters) return { idToken, from }
  throw new NsmError('USAGE', `${from} holds no ID token (three parts of base64url, with dots between)`, 'check it')
}

/** A platform that could give a token but was not asked to in the job's file. */
function explainAbsence(environment: Environment): void {
  const missing = environment['GITHUB_ACTIONS']
    ? { where: 'GitHub Actions', next: 'give the job `permissions: id-token: write`' }
    : environment['GITLAB_CI']
      ? { where: 'GitLab', next: 'give the job `id_tokens: NSM_ID_TOKEN: aud: nsm://TRUST-DOMAIN`' }
      : undefined
  if (missing) throw new NsmError('IDENTITY', `this job of ${missing.where} was given no ID token`, missing.next)
}
