import { NsmError } from '../../src/base/errors.ts'
import { buildGoPeers } from '../../test/interop/go-peers.ts'

/** Builds NSM's own programs, unless that was done, or says why they cannot be had and what would help. */
export async function whyNoPeers(): Promise<NsmError | undefined> {
  const peers = await buildGoPeers()
  if (peers.path !== undefined) return undefined
  return new NsmError('NOT_READY', peers.why, 'install Go 1.24 or newer, and see that its module proxy can be reached')
}
