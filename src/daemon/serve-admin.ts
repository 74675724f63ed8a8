import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import type { Undo } from '../base/undo.ts'
import type { Invitation, InviteResult } from './inviter.ts'
import { servePath } from './paths.ts'
import { connectRpc } from './rpc-client.ts'
import { startRpcServer } from './rpc-server.ts'
import type { Home } from './serve-home.ts'

export type { InviteResult } from './inviter.ts'

/** Listens for `nsm invite` of the same user or root; the result stops it. */
export async function startServeAdmin(parts: {
  readonly runtimeDir: string
  readonly home: Pick<Home, 'invite'>
  readonly clock: Clock
  readonly log: Log
}): Promise<Undo> {
  const { home, clock, log } = parts
  const server = await startRpcServer({
    path: servePath(parts),
    methods: { invite: async (parameters) => home.invite(parseInvitation(parameters)) },
    guarded: ['invite'],
    clock,
    log,
  })
  return () => server.close()
}

/** Asks the server that runs on this machine for a join string; throws `UNREACHABLE` when none runs. */
export async function inviteFromRunning(
  settings: Pick<Settings, 'runtimeDir'>,
  wanted: Invitation,
): Promise<InviteResult> {
  const rpc = await connectRpc(servePath(settings)).catch((error: unknown) => {
    if (error instanceof NsmError && error.code === 'UNREACHABLE') throw noServer(error)
    throw error
  })
  try {
    const result: unknown = await rpc.call('invite', wanted)
    if (isInviteResult(result)) return result
    throw new NsmError('USAGE', 'the server is of another version', 'restart `nsm serve`')
  } finally {
    await rpc.close()
  }
}

function parseInvitation(parameters: unknown): Invitation {
  const { id, ttlMs, endpoint = false } = isJsonObject(parameters) ? parameters : {}
  const isId = id === undefined || typeof id === 'string'
  if (!isId || typeof ttlMs !== 'number' || typeof endpoint !== 'boolean') {
    throw new NsmError('USAGE', 'an invitation has a ttlMs and perhaps an id', 'see `nsm invite --help`')
  }
  return { ttlMs, endpoint, ...(id === undefined ? {} : { id }) }
}

function isInviteResult(value: unknown): value is InviteResult {
  return isJsonObject(value) && value['apiVersion'] === 'nsm/invite/v1'
}

function noServer(cause: unknown): NsmError {
  return new NsmError('UNREACHABLE', 'no nsm serve runs here', 'start one: `nsm serve`', { cause })
}
