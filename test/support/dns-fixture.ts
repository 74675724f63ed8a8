import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { join } from 'node:path'
import packet from 'dns-packet'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'
import { installSystemDns, readSystemUpstreams, repairSystemDns } from '../../src/dns/os/open.ts'
import { listenCandidates } from '../../src/dns/own-addresses.ts'
import { questionBytes } from './dns-client.ts'

/** One process of the name space test: `dns-fixture.ts upstreams|resolver|repair|ask STATE-DIR|ADDRESS`. */
const [role = '', argument = ''] = process.argv.slice(2)
const journalPath = join(argument, 'dns.json')
const resolvConf = '/etc/resolv.conf'

/** The host's resolver on 127.0.0.2 and the service's on 127.0.0.3; both know one name. */
async function upstreams(): Promise<void> {
  await serve('127.0.0.2', 'www.example', '192.0.2.80')
  await serve('127.0.0.3', 'db.svc.test', '10.64.0.2')
  process.stdout.write('ready\n')
}

async function serve(address: string, known: string, data: string): Promise<void> {
  const socket = createSocket('udp4')
  socket.on('message', (message, from) => {
    const { id = 0, questions = [] } = packet.decode(message)
    const [question] = questions
    const isKnown = question?.name.toLowerCase() === known
    const answers = isKnown && question.type === 'A' ? [{ type: 'A' as const, name: question.name, ttl: 5, data }] : []
    const flags = 0x180 | (isKnown ? 0 : 3)
    socket.send(packet.encode({ type: 'response', id, flags, questions, answers }), from.port, from.address)
  })
  socket.bind(53, address)
  await once(socket, 'listening')
}

async function resolver(): Promise<void> {
  const { upstreams: defaultUpstreams } = await readSystemUpstreams(resolvConf)
  const dns = await openDns({ clock: systemClock, log: silentLog, listen: listenCandidates, defaultUpstreams })
  dns.setScopes('c1', [{ suffix: 'svc.test', mode: 'fanout', upstreams: [{ address: '127.0.0.3', port: 53 }] }])
  const searchDomains = ['svc.test']
  const system = await installSystemDns({
    resolvConf,
    journalPath,
    listener: dns.listening,
    searchDomains,
    links: [],
    log: silentLog,
  })
  process.on('SIGTERM', () => {
    void system
      .restore()
      .then(() => dns.close())
      .then(() => process.exit(0))
  })
  process.stdout.write('ready\n')
  setInterval(() => {}, 60_000)
}

async function repair(): Promise<void> {
  process.stdout.write(`${await repairSystemDns({ journalPath, log: silentLog })}\n`)
}

/** Asks UDP port 53 of an address; a connected socket hears that the port is closed. */
async function ask(): Promise<void> {
  const socket = createSocket('udp4')
  socket.connect(53, argument)
  await once(socket, 'connect')
  socket.send(questionBytes('db.svc.test'))
  const heard = await once(socket, 'message').then(
    () => 'open',
    () => 'closed',
  )
  socket.close()
  process.stdout.write(`${heard}\n`)
}

const roles: Readonly<Record<string, () => Promise<void>>> = { upstreams, resolver, repair, ask }
await roles[role]?.()
