import { type OidcIssuer, readIssuers } from './oidc-issuers.ts'
import { readPlaced } from './placed-value.ts'

/** Reads a file of issuers, YAML or JSON whose every key is known; throws `USAGE` that names the line. */
export function parseIssuers(text: string, file: string, trustDomain: string): readonly OidcIssuer[] {
  return readIssuers(readPlaced(text, file).fields(['issuers']).need('issuers'), trustDomain)
}
