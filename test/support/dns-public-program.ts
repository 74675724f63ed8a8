import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'
import { askUdp, questionBytes } from './dns-client.ts'
import { createFakeClock } from './fake-clock.ts'

/*
 * Our resolver before a server with a public address, as root in a network namespace of its own. The server echoes the
 * spelling it was asked in; for names under `forged` it first sends another address in lower case, for names under `lower`
 * it knows lower case only. No time goes by, so nothing is asked twice. Prints one JSON object.
 */
execFileSync('sh', [
  '-euc',
  'ip link set lo up; ip address add 192.0.2.53/32 dev lo; ip address add 192.0.2.54/32 dev lo',
])

interface Seen {
  readonly ports: Set<number>
  readonly spellings: string[]
}

async function serve(address: string): Promise<Seen> {
  const seen: Seen = { ports: new Set(), spellings: [] }
  const socket = createSocket('udp4')
  socket.on('message', (message, from) => {
    seen.ports.add(from.port)
    const name = message.subarray(12, message.indexOf(0, 12)).toString('latin1')
    seen.spellings.push(name)
    const reply = (question: Buffer, last: number) => {
      const head = Buffer.from(message.subarray(0, 12))
      head.writeUInt16BE(0x8180, 2)
      head.writeUInt16BE(1, 6)
      head.writeUInt16BE(0, 10)
      const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, last])
      socket.send(Buffer.concat([head, question, record]), from.port, from.address)
    }
    const end = message.indexOf(0, 12) + 5
    const lower = Buffer.from(message.subarray(12, end).toString('latin1').toLowerCase(), 'latin1')
    if (/forged/i.test(name)) reply(lower, 66)
    reply(/lower/i.test(name) ? lower : message.subarray(12, end), 1)
  })
  socket.bind(53, address)
  await once(socket, 'listening')
  return seen
}

const [keeping, lowering] = [await serve('192.0.2.53'), await serve('192.0.2.54')]
const dns = await openDns({
  clock: createFakeClock(),
  log: silentLog,
  listen: [{ address: '127.0.0.1', port: 0 }],
  defaultUpstreams: [{ address: '192.0.2.53', port: 53 }],
})
const upstreams = [{ address: '192.0.2.54', port: 53 }]
dns.setScopes('c1', [{ suffix: 'lower.example', mode: 'exclusive', upstreams }])

async function ask(name: string): Promise<{ readonly address: unknown; readonly spelling: string }> {
  const { answers, bytes } = await askUdp(dns.listening.port, questionBytes(name))
  const [first] = answers
  return { address: first?.type === 'A' ? first.data : undefined, spelling: bytes.subarray(13, 17).toString('latin1') }
}

const answers: unknown[] = []
for (let i = 0; i < 60; i++) answers.push((await ask(`NaMe${i}.a-long-enough-name.example`)).address)
const own = await ask('WhAt.a-long-enough-name.spelling.example')
const forged = await ask('what.a-long-enough-name.forged.example')
for (let i = 0; i < 5; i++) answers.push((await ask(`host${i}.a-long-enough-name.lower.example`)).address)
const otherCase = dns.status().upstreams.reduce((sum, upstream) => sum + upstream.otherCase, 0)
const isMixed = (name: string) => name !== name.toLowerCase()
const result = {
  addresses: [...new Set(answers)],
  ports: keeping.ports.size,
  mixed: keeping.spellings.filter(isMixed).length / keeping.spellings.length,
  mixedTowardsLower: lowering.spellings.map(isMixed),
  spelling: own.spelling,
  forged: forged.address,
  otherCase,
}
process.stdout.write(`${JSON.stringify(result)}\n`)
process.exit(0)
