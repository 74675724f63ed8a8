import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openDns, type ScopeMode } from '../../src/dns/dns.ts'
import { askUdp, questionBytes } from './dns-client.ts'
import { outcomeOf } from './dns-scenarios.ts'

/** `dns-leak-program.ts server LAST` or `ask MODE`: one process of the leak test. */
const [role = '', argument = ''] = process.argv.slice(2)

/** Answers every address question with 10.0.0.LAST on port 53 of all addresses, and says each name it is asked for. */
async function server(): Promise<void> {
  const socket = createSocket('udp4')
  socket.on('message', (message, from) => {
    process.stdout.write(
      `${message
        .subarray(13, 13 + (message[12] ?? 0))
        .toString('latin1')
        .toLowerCase()}\n`,
    )
    const end = message.indexOf(0, 12) + 5
    const head = Buffer.from(message.subarray(0, end))
    head.writeUInt16BE(0x8180, 2)
    head.writeUInt16BE(1, 6)
    head.writeUInt16BE(0, 10)
    const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, Number(argument)])
    socket.send(Buffer.concat([head, record]), from.port, from.address)
  })
  socket.bind(53)
  await once(socket, 'listening')
  process.stdout.write('ready\n')
}

/** Asks for one name while the tunnel is up, takes the tunnel away, and asks for more: at once, and with fresh sockets. */
async function ask(): Promise<void> {
  const mode: ScopeMode = argument === 'exclusive' ? 'exclusive' : 'fanout'
  const dns = await openDns({
    clock: systemClock,
    log: silentLog,
    listen: [{ address: '127.0.0.1', port: 0 }],
    defaultUpstreams: [{ address: '192.0.2.1', port: 53 }],
  })
  const upstreams = [{ address: '10.64.0.53', port: 53, localAddress: '10.64.0.2' }]
  dns.setScopes('c1', [{ suffix: 'svc.test', mode, upstreams }])
  const names = (front: string, count: number) => Array.from({ length: count }, (_, i) => `${front}${i}.svc.test`)
  const askAll = (all: readonly string[]) =>
    Promise.all(all.map(async (name) => outcomeOf(await askUdp(dns.listening.port, questionBytes(name)))))
  // So many that each of the 16 sockets has been used, and is used again when the tunnel is gone.
  const before = await askAll(names('before', 100))
  execFileSync('ip', ['link', 'delete', 't0'])
  const after = await askAll(names('after', 100))
  const { unreachable } = dns.status().upstreams.find(({ address }) => address === '10.64.0.53') ?? {}
  dns.setScopes('c1', [])
  dns.setScopes('c1', [{ suffix: 'svc.test', mode, upstreams }])
  const fresh = await askAll(names('fresh', 20))
  // Past our resolver, so that the server outside has said all it heard when it says this.
  await askUdp(53, questionBytes('sentinel.test'), '192.0.2.1')
  process.stdout.write(
    `${JSON.stringify({ before: distinct(before), after: distinct(after), fresh: distinct(fresh), unreachable })}\n`,
  )
  process.exit(0)
}

function distinct(outcomes: readonly string[]): readonly string[] {
  return [...new Set(outcomes)].sort()
}

await (role === 'server' ? server() : ask())
