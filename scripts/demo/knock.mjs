// usage: knock.mjs ADDRESS PORT: sends what looks like a WireGuard handshake and says how many datagrams came back in a second.
import { createSocket } from 'node:dgram'

const [, , address, port] = process.argv
const socket = createSocket('udp4')
let answers = 0
socket.on('message', () => answers++)
socket.on('error', () => {})
const initiation = Buffer.alloc(148)
initiation[0] = 1
for (let sent = 0; sent < 3; sent++) socket.send(initiation, Number(port), address)
setTimeout(() => {
  process.stdout.write(`${answers}\n`)
  socket.close()
}, 1_000)
