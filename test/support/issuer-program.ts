import { createInterface } from 'node:readline'
import { startIssuer } from './oidc-issuer.ts'

/* An issuer on the loopback of its own namespace: prints its URL, then a token for each line of claims. */

const issuer = await startIssuer()
process.stdout.write(`${issuer.url}\n`)
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${await issuer.token(JSON.parse(line))}\n`)
}
await issuer.close()
