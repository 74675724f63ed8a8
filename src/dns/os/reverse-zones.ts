import { addressBytes, familyBits, type Prefix, parsePrefix } from '../../base/ip.ts'

/** The zones that hold the reverse names of a suffix that is an IP prefix, 128 at most; any other suffix as it is. */
export function zonesOfSuffix(suffix: string): readonly string[] {
  return suffix.includes('/') ? reverseZones(parsePrefix(suffix)) : [suffix]
}

/** Zones end at whole labels: a prefix in between is several [RFC 1035 3.5, RFC 3596 2.5]. */
function reverseZones(prefix: Prefix): readonly string[] {
  const labelBits = prefix.family === 4 ? 8 : 4
  const bits = Math.ceil(prefix.length / labelBits) * labelBits
  const step = 1n << BigInt(familyBits[prefix.family] - bits)
  return Array.from({ length: 2 ** (bits - prefix.length) }, (_, at) => {
    const bytes = addressBytes({ family: prefix.family, bits: prefix.bits + BigInt(at) * step })
    const labels = prefix.family === 4 ? [...bytes].map(String) : [...Buffer.from(bytes).toString('hex')]
    const root = prefix.family === 4 ? 'in-addr.arpa' : 'ip6.arpa'
    return [...labels.slice(0, bits / labelBits).reverse(), root].join('.')
  })
}
