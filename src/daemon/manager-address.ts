import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { NsmError } from '../base/errors.ts'
import type { Target } from '../nsm/channel.ts'

/** Reads `tcp://host:port`, the scheme may be left out; throws `USAGE`. */
export function parseManager(text: string): Target {
  const found = /^(?:tcp:\/\/)?(?:\[([0-9a-fA-F:.]+)\]|([^:/[\]]+)):(\d{1,5})\/?$/.exec(text.trim())
  const port = Number(found?.[3])
  const address = found?.[1] ?? found?.[2]
  if (address !== undefined && port >= 1 && port <= 65_535) return { address, port }
  throw new NsmError(
    'USAGE',
    `"${text.slice(0, 128)}" is not the address of a manager`,
    text.startsWith('unix:')
      ? "a manager's socket takes only pods of its node: name its TCP address, like tcp://node:5001"
      : 'write it like tcp://host:5001',
  )
}

/** An address, not a name: routes and excluded prefixes need it, and it stays the same when names change. Throws `UNREACHABLE`. */
export async function resolveTarget(target: Target): Promise<Target> {
  if (isIP(target.address) !== 0) return { address: target.address, port: target.port }
  const { address } = await lookup(target.address).catch((cause: unknown) => {
    throw new NsmError('UNREACHABLE', `the name ${target.address} is not known`, 'check the name of the server', {
      cause,
    })
  })
  return { address, port: target.port }
}
