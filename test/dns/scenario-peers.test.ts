import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sleep } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'
import { askUdp, questionBytes } from '../support/dns-client.ts'
import { peerOutcomes } from '../support/dns-peer-outcomes.ts'
import { type PeerName, readyName, startPeer, versionText } from '../support/dns-peers.ts'
import { outcomeOf, ownersAddress, raced, scenarioScript, silenceMs } from '../support/dns-scenarios.ts'
import { DnsUpstream, type Script, scripts } from '../support/dns-upstream.ts'
import { createPatientClock } from '../support/patient-clock.ts'

/* The fan-out rows of the scenario table on real time, all at once: ours and other resolvers with the same two servers. */

const peerNames = ['dnsmasq', 'unbound'] as const satisfies readonly PeerName[]
const isVersion = (name: PeerName) => versionText(name).includes(` ${peerOutcomes[name].version}`)

/** The script of a side, and the name that tells when a peer is ready. */
const script = (side: 'owner' | 'host'): Script => {
  return (question) =>
    question.name === readyName ? scripts.answering(ownersAddress)(question) : scenarioScript(side)(question)
}

type Subject = 'ours' | PeerName
const outcomes = new Map<Subject, readonly string[]>()
const closers: (() => Promise<void>)[] = []
const clock = createPatientClock()
beforeAll(async () => {
  const [owner, host] = [await DnsUpstream.open(script('owner'), clock), await DnsUpstream.open(script('host'), clock)]
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [host.target] })
  closers.push(
    () => dns.close(),
    () => owner.close(),
    () => host.close(),
  )
  dns.setScopes('c1', [{ suffix: 'case.test', mode: 'fanout', upstreams: [owner.target] }])
  const subjects: [Subject, number][] = [['ours', dns.listening.port]]
  for (const name of peerNames.filter(isVersion)) {
    const peer = await startPeer(name, [owner.target, host.target])
    closers.push(() => peer.stop())
    subjects.push([name, peer.port])
  }
  const askAll = async ([subject, port]: [Subject, number]) => {
    outcomes.set(subject, await Promise.all(raced.map((_, i) => ask(port, `s${i}.case.test`))))
  }
  await Promise.all(subjects.map(askAll))
})
afterAll(async () => {
  for (const close of closers) await close()
})

async function ask(port: number, name: string): Promise<string> {
  const asked = askUdp(port, questionBytes(name, { edns: 1232 })).then(outcomeOf)
  return Promise.race([asked, sleep(clock, silenceMs).then(() => 'none')])
}

describe('the fan-out scenarios on real time', () => {
  test.each(raced)('ours gives $ours for owner / host $title', (row) => {
    expect(outcomes.get('ours')?.[raced.indexOf(row)]).toBe(row.ours)
  })
})

for (const name of peerNames) {
  const { version, outcomes: recorded } = peerOutcomes[name]
  const why = isVersion(name) ? '' : ` (skipped: ${name} ${version} is not here)`
  describe.skipIf(why !== '')(`${name} ${version} with the same two servers${why}`, () => {
    test.each(raced)('differs from ours in owner / host $title only as recorded', (row) => {
      // A program that tries one server after the other may need longer than a stub waits.
      const known = [
        ...(recorded[row.title] ?? row.ours).split(' or '),
        ...(name === 'unbound' ? [row.ours, 'none'] : []),
      ]
      expect(known).toContain(outcomes.get(name)?.[raced.indexOf(row)])
    })
  })
}

test('every recorded difference belongs to a scenario', () => {
  const titles = raced.map(({ title }) => title)
  for (const name of [...peerNames, 'resolved'] as const) {
    for (const title of Object.keys(peerOutcomes[name].outcomes)) expect(titles).toContain(title)
  }
})
