import { createServer } from 'node:https'
import { TLSSocket } from 'node:tls'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { parseSpiffeId } from '../../src/identity/spiffe-id.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'

/* An HTTPS server as one writes it in Node: certificate, key and roots are those of the Workload API at
 * SPIFFE_ENDPOINT_SOCKET, and replaced with them. It answers each caller with the caller's SPIFFE ID. Argument: the port.
 * Only the roots of its own domain: Node asks no root which domain it speaks for, and that of one could vouch for IDs of another. */

const socket = process.env['SPIFFE_ENDPOINT_SOCKET'] ?? ''
const source = await openWorkloadApi({ socket, clock: systemClock, log: silentLog })
const credentialsOf = ({ svid, bundles }: IdentityState) => ({
  cert: certificatesToPem(svid.chain),
  key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
  ca: certificatesToPem(bundles.get(parseSpiffeId(svid.spiffeId).trustDomain) ?? []),
})
const server = createServer(
  { ...credentialsOf(source.current()), requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.3' },
  (request, response) => {
    const peer = request.socket instanceof TLSSocket ? request.socket.getPeerX509Certificate() : undefined
    response.end(peer?.subjectAltName?.replace(/^URI:/, '') ?? 'nobody')
  },
)
source.onChange((state) => server.setSecureContext(credentialsOf(state)))
server.listen(Number(process.argv[2]), () => process.stdout.write('ready\n'))
