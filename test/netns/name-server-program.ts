import { createSocket } from 'node:dgram'
import dnsPacket, { type Answer } from 'dns-packet'

/* usage: name-server-program.ts ADDRESS DOMAIN=IP:PORT..: a name server at port 53 of an address that knows where the servers of
 * domains are. Prints one line when it listens. */

const [, , address = '', ...domains] = process.argv
const places = new Map(domains.map((text) => [text.split('=')[0], text.split('=')[1] ?? '']))
const socket = createSocket('udp4')
socket.on('message', (message, from) => {
  const { id, questions = [] } = dnsPacket.decode(message)
  const [question] = questions
  const answers = question && answersTo(question.name.toLowerCase(), question.type)
  const answer = dnsPacket.encode({
    ...{ type: 'response', flags: 0x180 | (answers ? 0 : 3), questions },
    ...(id === undefined ? {} : { id }),
    ...(answers ? { answers } : {}),
  })
  socket.send(answer, from.port, from.address)
})
socket.bind(53, address, () => process.stdout.write('listening\n'))

function answersTo(name: string, type: string): Answer[] | undefined {
  const [host, port] = (places.get(name.replace(/^[^.]+\.nsm-system\./, '')) ?? '').split(':')
  if (port === undefined || host === undefined) return undefined
  if (type === 'SRV')
    return [{ type, name, ttl: 60, data: { port: Number(port), target: name, priority: 1, weight: 1 } }]
  return type === 'A' ? [{ type, name, ttl: 60, data: host }] : []
}
