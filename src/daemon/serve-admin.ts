import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import type { Undo } from '../base/undo.ts'
import type { Invitation, InviteResult, OpenInvite } from './inviter.ts'
import { servePath } from './paths.ts'
import { policyMethods } from './policy-methods.ts'
import { startRpcServer } from './rpc-server.ts'
import { askServe, otherVersion } from './serve-ask.ts'
import { caMethods } from './serve-ca.ts'
import type { Home } from './serve-home.ts'

export type { InviteResult } from './inviter.ts'

/** Listens for `nsm invite` of the same user or root; the result stops it. */
export async function startServeAdmin(parts: {
  readonly runtimeDir: string
  readonly home: Pick<
    Home,
    'invite' | 'openJoinString' | 'authority' | 'federation' | 'trustDomain' | 'admission' | 'policyState'
  >
  readonly clock: Clock
  readonly log: Log
}): Promise<Undo> {
  const { home, clock, log } = parts
  const server = await startRpcServer({
    path: servePath(parts),
    methods: {
      invite: async (parameters) => invite(home, parseInvitation(parameters)),
      ...caMethods(home),
      ...policyMethods(home),
    },
    guarded: ['invite', 'rotateRoot', 'policyTest', 'policyCheck'],
    clock,
    log,
  })
  return () => server.close()
}

/** Asks the server that runs on this machine for a join string; throws `UNREACHABLE` when none runs. */
export async function inviteFromRunning(
  settings: Pick<Settings, 'runtimeDir'>,
  wanted: Asked,
): Promise<OpenInvite & Partial<InviteResult>> {
  const result = await askServe(settings, 'invite', wanted)
  if (isInviteResult(result)) return result
  throw otherVersion()
}

type Asked = Invitation & {
  /** True: the join string without a token, for those who show an ID token of an issuer. */
  readonly open?: boolean
}

async function invite(home: Pick<Home, 'invite' | 'openJoinString'>, wanted: Asked): Promise<OpenInvite> {
  if (!wanted.open) return home.invite(wanted)
  const joinString = home.openJoinString()
  if (joinString !== undefined) return { apiVersion: 'nsm/invite/v1', joinString }
  throw new NsmError(
    'USAGE',
    'this server believes no issuer, so a join string without a token admits nobody',
    'name the issuer: nsm serve --issuer or --issuers, or in its policy file',
  )
}

function parseInvitation(parameters: unknown): Asked {
  const { id, ttlMs, endpoint = false, open = false } = isJsonObject(parameters) ? parameters : {}
  const isId = id === undefined || typeof id === 'string'
  if (!isId || typeof ttlMs !== 'number' || typeof endpoint !== 'boolean' || typeof open !== 'boolean') {
    throw new NsmError('USAGE', 'an invitation has a ttlMs and perhaps an id', 'see `nsm invite --help`')
  }
  return { ttlMs, endpoint, open, ...(id === undefined ? {} : { id }) }
}

function isInviteResult(value: unknown): value is OpenInvite & Partial<InviteResult> {
  return isJsonObject(value) && value['apiVersion'] === 'nsm/invite/v1'
}
