import { create } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { NsmError } from '../base/errors.ts'
import { splitDer } from '../identity/der-reader.ts'
import type { IssuedSvid, TrustBundles } from '../identity/source.ts'
import { type ExchangeResponse, ExchangeResponseSchema } from './generated/identity_pb.js'

/** An issued SVID as it travels: certificates as concatenated DER, as the SPIFFE Workload API does. */
export function encodeIssued(issued: IssuedSvid, trustDomain: string): ExchangeResponse {
  const federated = [...issued.bundles].filter(([domain]) => domain !== trustDomain)
  return create(ExchangeResponseSchema, {
    spiffeId: issued.spiffeId,
    chain: concatenate(issued.chain),
    bundle: concatenate(issued.bundles.get(trustDomain) ?? []),
    federatedBundles: encodeBundles(new Map(federated)),
    notAfter: timestampFromMs(issued.notAfterMs),
  })
}

/** Reads what `encodeIssued` wrote; whoever uses it verifies the chain. Throws `IDENTITY` for broken DER. */
export function decodeIssued(response: ExchangeResponse, trustDomain: string): IssuedSvid {
  const { notAfter } = response
  if (!notAfter) throw new NsmError('IDENTITY', 'the authority gave no expiry', 'update the server')
  const federated = decodeBundles(response.federatedBundles)
  return {
    spiffeId: response.spiffeId,
    chain: split(response.chain),
    bundles: new Map([...federated, [trustDomain, split(response.bundle)]]),
    notAfterMs: timestampMs(notAfter),
  }
}

/** Trust domains with their roots as concatenated DER. */
export function encodeBundles(bundles: TrustBundles): Record<string, Uint8Array> {
  return Object.fromEntries([...bundles].map(([domain, roots]) => [domain, concatenate(roots)]))
}

/** Reads what `encodeBundles` wrote; throws `IDENTITY` for broken DER. */
export function decodeBundles(bundles: Readonly<Record<string, Uint8Array>>): TrustBundles {
  return new Map(Object.entries(bundles).map(([domain, roots]) => [domain, split(roots)]))
}

/** Certificates as the Workload API has them: one after the other, without anything between. */
export function concatenate(certificates: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(certificates))
}

function split(certificates: Uint8Array): Uint8Array[] {
  return splitDer(certificates)
}
