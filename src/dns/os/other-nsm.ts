import { NsmError } from '../../base/errors.ts'
import { isTaken } from '../listener.ts'
import { isOwnAddress } from '../own-addresses.ts'
import type { ResolvConf } from './resolv-conf.ts'
import type { HostUpstream } from './system-dns.ts'

/**
 * A setting that points to another nsm that still listens belongs to it: taking it over would lose the host's own resolvers
 * when both have left. Where nobody listens any more, or we do, the setting is a leftover. Throws `CONFLICT`.
 */
export async function checkNoOther(path: string, host: ResolvConf, listener: HostUpstream): Promise<void> {
  const [other = ''] = host.nameservers
  if (!isOwnAddress(other) || other === listener.address) return
  if (!(await isTaken({ address: other, port: listener.port }))) return
  throw new NsmError(
    'CONFLICT',
    `${path} points to another nsm, which listens on ${other}`,
    'disconnect that one first, or connect with --dns off',
  )
}

/** True for a file that another nsm wrote. */
export function isAnothers({ isOurs, nameservers: [first = ''] }: ResolvConf, listener: HostUpstream): boolean {
  return isOurs && isOwnAddress(first) && first !== listener.address
}
