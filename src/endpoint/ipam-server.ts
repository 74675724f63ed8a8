import { NsmError } from '../base/errors.ts'
import { formatPrefix } from '../base/ip.ts'
import { IPAM, Type } from '../nsm/generated/ipam_pb.js'
import { duplexStream, type MethodBinding } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import type { PrefixAuthority } from './prefix-authority.ts'
import { parsePrefixes } from './prefix-plan.ts'

/** Ours: excluded prefixes of one request. */
const excludedMax = 1_024

/**
 * NSM's prefix service over an authority [NSM sdk ipam/vl3ipam/server.go]: ALLOCATE is answered with a prefix, DELETE is
 * not answered, the end of the stream releases what it was given. Ours: only sites are answered, and what is released
 * rests for its owner. A site of both families asks twice, each time excluding the prefixes of the other family.
 */
export function ipamService(parts: {
  readonly authority: PrefixAuthority
  readonly isSite: (spiffeId: string) => boolean
}): MethodBinding[] {
  return [
    duplexStream(IPAM.method.managePrefixes, async function* (requests, call) {
      const { spiffeId } = call.peer
      if (!parts.isSite(spiffeId)) throw policyRefusal('ipam: prefixes are given to sites only')
      const stay = parts.authority.open(spiffeId)
      try {
        for await (const { type, prefix, excludePrefixes } of requests) {
          const wanted = prefix === '' ? undefined : parsePrefixes([prefix])[0]
          if (type === Type.DELETE) {
            if (wanted) stay.drop(wanted)
            continue
          }
          if (type !== Type.ALLOCATE) throw undefinedType()
          if (excludePrefixes.length > excludedMax) throw policyRefusal('ipam: too many excluded prefixes')
          const given = stay.take({ excluded: parsePrefixes(excludePrefixes), ...(wanted && { wanted }) })
          yield { prefix: formatPrefix(given), excludePrefixes }
        }
      } finally {
        stay.end()
      }
    }),
  ]
}

function undefinedType(): NsmError {
  return new NsmError('USAGE', 'the type of a prefix request is undefined', 'send ALLOCATE or DELETE')
}
