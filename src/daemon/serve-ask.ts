import { NsmError } from '../base/errors.ts'
import type { Settings } from '../base/settings.ts'
import { servePath } from './paths.ts'
import { connectRpc } from './rpc-client.ts'

/** Asks the server that runs on this machine; throws `UNREACHABLE` when none runs, and what it throws. */
export async function askServe(
  settings: Pick<Settings, 'runtimeDir'>,
  method: string,
  parameters: object,
): Promise<unknown> {
  const rpc = await connectRpc(servePath(settings)).catch((error: unknown) => {
    if (error instanceof NsmError && error.code === 'UNREACHABLE') throw noServer(error)
    throw error
  })
  try {
    return await rpc.call(method, parameters)
  } finally {
    await rpc.close()
  }
}

/** For an answer that cannot be read. */
export function otherVersion(): NsmError {
  return new NsmError('USAGE', 'the server is of another version', 'restart `nsm serve`')
}

function noServer(cause: unknown): NsmError {
  return new NsmError('UNREACHABLE', 'no nsm serve runs here', 'start one: `nsm serve`', { cause })
}
