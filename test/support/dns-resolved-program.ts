import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { sleep } from '../../src/base/clock.ts'
import { askUdp, questionBytes } from './dns-client.ts'
import { outcomeOf, ownersAddress, raced, scenarioScript, silenceMs } from './dns-scenarios.ts'
import { DnsUpstream, scripts } from './dns-upstream.ts'
import { createPatientClock } from './patient-clock.ts'

/*
 * Runs the fan-out scenarios through systemd-resolved: `dns-resolved-program.ts BINARY`, as root in a mount and a network
 * namespace of its own. Its settings per link are files that resolved itself reads at the start, so no D-Bus is needed.
 * Prints one JSON object: title of the scenario -> outcome.
 */
const [binary = ''] = process.argv.slice(2)
const readyName = 'ready.case.test'
const stub = '127.0.0.53'

const system = `
ip link set lo up
for n in 0 1; do
  ip link add d$n type veth peer name p$n
  ip address add 198.18.$n.1/24 dev d$n
  ip link set d$n up
  ip link set p$n up
done
mkdir -p /run/systemd /etc/systemd
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /etc/systemd
printf '[Resolve]\\nLLMNR=no\\nMulticastDNS=no\\nDNSSEC=no\\nCache=no\\nFallbackDNS=\\n' > /etc/systemd/resolved.conf
cp /etc/passwd /etc/group /run/systemd
echo 'systemd-resolve:x:64991:64991::/:/bin/false' >> /run/systemd/passwd
echo 'systemd-resolve:x:64991:' >> /run/systemd/group
mount --bind /run/systemd/passwd /etc/passwd
mount --bind /run/systemd/group /etc/group
`
const links = '/run/systemd/resolve/netif'

function setUp(ports: readonly number[]): void {
  execFileSync('sh', ['-euc', system])
  mkdirSync(links, { recursive: true })
  for (const [n, port] of ports.entries()) {
    const line = execFileSync('ip', ['-o', 'link', 'show', `d${n}`], { encoding: 'utf8' })
    const settings = ['LLMNR=no', 'MDNS=no', `SERVERS=127.0.0.1:${port}`, 'DOMAINS=~case.test', 'DEFAULT_ROUTE=no']
    writeFileSync(`${links}/${line.split(':')[0]}`, `${settings.join('\n')}\n`)
  }
  execFileSync('chown', ['-R', '64991:64991', '/run/systemd/resolve'])
}

async function ask(name: string): Promise<string> {
  const asked = askUdp(53, questionBytes(name, { edns: 1232 }), stub).then(outcomeOf)
  return Promise.race([asked, sleep(clock, silenceMs).then(() => 'none')])
}

async function untilReady(): Promise<void> {
  for (;;) {
    if (resolved.exitCode !== null) throw new TypeError('systemd-resolved ended before it answered')
    const asked = askUdp(53, questionBytes(readyName), stub).then(outcomeOf, () => 'closed')
    if ((await Promise.race([asked, pause(1_000, 'none')])) === ownersAddress) return
    await pause(50)
  }
}

const knowsReady = (side: 'owner' | 'host') => (question: Parameters<ReturnType<typeof scenarioScript>>[0]) =>
  question.name === readyName ? scripts.answering(ownersAddress)(question) : scenarioScript(side)(question)
const clock = createPatientClock()
const upstreams = [
  await DnsUpstream.open(knowsReady('owner'), clock),
  await DnsUpstream.open(knowsReady('host'), clock),
]
setUp(upstreams.map(({ target }) => target.port))
const resolved = spawn(binary, { stdio: 'ignore' })
await untilReady()
const outcomes = await Promise.all(raced.map(async (row, i) => [row.title, await ask(`s${i}.case.test`)] as const))
process.stdout.write(`${JSON.stringify(Object.fromEntries(outcomes))}\n`)
resolved.kill('SIGKILL')
process.exit(0)
