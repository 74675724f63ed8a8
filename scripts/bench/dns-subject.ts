import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'

/** Runs our resolver for the benchmark: `dns-subject.ts PORT OWNER DEFAULT SUFFIX...`, upstreams as address:port. */
const [port = '0', owner = '', fallback = '', ...suffixes] = process.argv.slice(2)
const dns = await openDns({
  clock: systemClock,
  log: silentLog,
  listen: [{ address: '127.0.0.1', port: Number(port) }],
  defaultUpstreams: [target(fallback)],
})
dns.setScopes(
  'bench',
  suffixes.map((suffix) => ({ suffix, mode: 'fanout', upstreams: [target(owner)] })),
)
process.stdout.write('ready\n')
setInterval(() => {}, 60_000)

function target(text: string): { readonly address: string; readonly port: number } {
  const [address = '', at = '53'] = text.split(':')
  return { address, port: Number(at) }
}
