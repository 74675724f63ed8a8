import { constants } from 'node:os'
import { errorText } from '../../src/ui/error-text.ts'
import { type Lab, openLab, whyNoLab } from './lab.ts'
import { createRealSteps } from './real-steps.ts'
import { Report } from './report.ts'
import { createSteps } from './steps.ts'
import { whyNoPeers } from './why-no-peers.ts'

/**
 * `npm run demo [-- --real] [--json]`: nsm at work on real packets, with `--real` against NSM's own programs; exits 0 only
 * when each step held.
 */
const real = process.argv.includes('--real')
const json = process.argv.includes('--json')
const report = new Report(json ? () => {} : (line) => void process.stdout.write(`${line}\n`))
const refused = (await whyNoLab()) ?? (real ? await whyNoPeers() : undefined)
if (refused) {
  process.stdout.write(json ? `${JSON.stringify({ error: refused.toData() }, undefined, 2)}\n` : '')
  process.stderr.write(json ? '' : `${errorText(refused)}\nNothing was changed on this machine.\n`)
  process.exitCode = refused.exitCode
} else {
  process.exitCode = await showAll()
}
process.exit()

async function showAll(): Promise<number> {
  report.say(
    real
      ? "NSM's own registry, manager, forwarder and endpoints, and nsm as their client, in a network namespace of their own.\n"
      : 'One server, two laptops and a stranger, each a network namespace of its own. Nothing outside them changes.\n',
  )
  const stopped = whenStopped()
  const lab = await openLab({
    kind: 'nsm-demo',
    machines: real ? ['laptop'] : ['server', 'laptop-1', 'laptop-2', 'stranger'],
    nameserver: '192.0.2.1',
  })
  try {
    const signalCode = await Promise.race([
      real ? realSteps(lab) : allSteps(createSteps(lab, import.meta.dirname)),
      stopped,
    ])
    if (signalCode !== undefined) return signalCode
  } finally {
    await lab.close()
  }
  report.say(
    report.ok
      ? '\nEvery step held. The namespaces are gone.'
      : '\nA step did not hold, see FAIL above. The namespaces are gone.',
  )
  if (json) process.stdout.write(`${report.toJson()}\n`)
  return report.ok ? 0 : 1
}

/** The exit code of a signal that ends the demo: 128 + n, after everything was removed. */
function whenStopped(): Promise<number> {
  return new Promise((settle) => {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(name, () => settle(128 + constants.signals[name]))
    }
  })
}

async function allSteps(steps: ReturnType<typeof createSteps>): Promise<undefined> {
  if (
    !(await report.step(
      'nsm serve: registry, manager, certificate authority and vL3 endpoint from nothing',
      steps.serve,
    ))
  )
    return
  const joined1 = await report.step('laptop-1: nsm connect my-networkservice-1', () => steps.connect('laptop-1'))
  const joined2 = await report.step('laptop-2: nsm connect kernel://my-networkservice-1/nsm-1', () =>
    steps.connect('laptop-2'),
  )
  if (joined1 && joined2) {
    await report.step('laptop-1: nsm status', steps.status)
    await report.step('laptop-1: the name of laptop-2 through the system (getaddrinfo)', steps.lookUp)
    await report.step('laptop-1: ping laptop-2 by name', steps.ping)
    await report.step('laptop-1: HTTP download from laptop-2 by name', steps.download)
    await report.step('laptop-1: TCP throughput to laptop-2 through the tunnels', steps.throughput)
    await report.step('laptop-1: the same connect again does nothing', steps.again)
  }
  await report.step('stranger: no identity, so no service', steps.strangerConnect)
  await report.step('stranger: a used join string is refused', steps.strangerReplay)
  await report.step('stranger: no way to a member, no answer from the WireGuard port', steps.strangerPackets)
  for (const name of ['laptop-1', 'laptop-2']) {
    await report.step(`${name}: nsm disconnect puts addresses, routes and the resolver file back`, () =>
      steps.disconnect(name),
    )
  }
  await report.step('nsm serve ends on SIGTERM', steps.stopServer)
}

async function realSteps(lab: Lab): Promise<undefined> {
  const steps = createRealSteps(lab.machine('laptop'), import.meta.dirname)
  if (!(await report.step("NSM's registry, manager, forwarder, ICMP responder and vL3 endpoint", steps.start))) return
  const services = ['vl3', 'icmp']
  let joined = true
  for (const service of services) {
    joined =
      (await report.step(`nsm connect ${service}, through manager and forwarder`, () => steps.connect(service))) &&
      joined
  }
  if (joined) {
    for (const service of services) {
      await report.step(`ping the endpoint of ${service}`, () => steps.ping(service))
      await report.step(`TCP to the endpoint of ${service} and back`, () => steps.echo(service))
    }
    await report.step('the own name, from the vL3 through the tunnel', () => steps.lookUp('vl3'))
    await report.step('nsm status', steps.status)
    await report.step('both leases are renewed', steps.refresh)
    for (const service of services) await report.step(`ping ${service} again`, () => steps.ping(service))
  }
  await report.step('nsm disconnect puts addresses, routes and the resolver file back', steps.disconnect)
  await report.step("NSM's programs end on SIGTERM", steps.stop)
}
