import { hash } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { identityFromPem, openSvidFiles } from '../identity/files.ts'
import { createFixedSource } from '../identity/fixed-source.ts'
import type { IdentitySource } from '../identity/source.ts'
import type { SvidText } from './protocol.ts'

/** The identity of an SVID; where its files are known it follows them. Throws `IDENTITY`, `PERMISSION`. */
export async function openSvid(svid: SvidText, parts: { clock: Clock; log: Log }): Promise<IdentitySource> {
  if (svid.paths) return openSvidFiles({ ...svid.paths, ...parts })
  return createFixedSource(identityFromPem(svid, parts.clock.wallMs()), parts.clock)
}

/** The same for the same files, or the same certificate. */
export function svidKey({ paths, svidPem }: SvidText): string {
  if (paths) return JSON.stringify([paths.svidPath, paths.keyPath, paths.bundlePath])
  return hash('sha256', svidPem, 'hex')
}
