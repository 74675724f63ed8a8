import { createServer } from 'node:http'
import { startIssuer } from '../support/oidc-issuer.ts'

/* usage: ci-issuer-program.ts HOST PORT JOBS: an issuer on the loopback of the namespace it runs in, and at HOST:PORT the
 * platform's endpoint that gives a job its token. JOBS is a JSON object: the claims of each job by the secret that the platform
 * gave it. Says the issuer's URL as one line. */

const [, , host = '', port = '', jobs = '{}'] = process.argv
const claims = new Map<string, Record<string, string>>(Object.entries(JSON.parse(jobs)))
const issuer = await startIssuer()
const endpoint = createServer(async (request, response) => {
  const aud = new URL(request.url ?? '', 'http://job').searchParams.get('audience') ?? undefined
  const job = claims.get(request.headers.authorization?.replace('bearer ', '') ?? '')
  const answer = job ? { value: await issuer.token({ ...job, aud }) } : {}
  response.writeHead(job ? 200 : 401).end(JSON.stringify(answer))
})
endpoint.listen(Number(port), host, () => process.stdout.write(`${issuer.url}\n`))
process.once('SIGTERM', () => process.exit())
