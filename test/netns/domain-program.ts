import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import dnsPacket from 'dns-packet'
import { startGoDomain } from '../interop/go-domain.ts'
import { GoMesh } from '../interop/go-mesh.ts'
import { type DomainTable, domainAnswers } from '../support/domain-dns.ts'
import { freePort } from '../support/free-port.ts'

/* usage: domain-program.ts PEERS ADDRESS: a domain `far.test` of NSM's programs on the loopback of the namespace it runs in,
 * and the name server that knows it at ADDRESS. Says where the SPIFFE agent of the laptop is, as one line of JSON. */

const [, , peers = '', address = ''] = process.argv
const mesh = await GoMesh.start(peers)
process.once('SIGTERM', () => void mesh.close().then(() => process.exit()))

const ports = { registry: await freePort(), manager: await freePort() }
await openNameServer({ 'far.test': ports })
const far = await startGoDomain(mesh, { name: 'far', dns: 53, ports })
await mesh.serve('icmp', { register: far.manager.url, 'wireguard-port': await freePort() })
await mesh.serve('vl3', { register: far.manager.url, 'wireguard-port': await freePort() })
process.stdout.write(`${JSON.stringify({ socket: mesh.socketOf('laptop') })}\n`)

/** On port 53, where a resolver file can name it. */
async function openNameServer(domains: DomainTable): Promise<void> {
  const socket = createSocket('udp4')
  socket.on('message', (message, from) => {
    const { id, questions = [] } = dnsPacket.decode(message)
    const [question] = questions
    const answers = question && domainAnswers(domains, question)
    const answer = dnsPacket.encode({
      ...{ type: 'response', flags: 0x180 | (answers ? 0 : 3), questions },
      ...(id === undefined ? {} : { id }),
      ...(answers ? { answers } : {}),
    })
    socket.send(answer, from.port, from.address)
  })
  socket.bind(53, address)
  await once(socket, 'listening')
  mesh.onClose(() => socket.close())
}
