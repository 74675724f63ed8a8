import { describe, expect, test } from 'vitest'
import { createSleepClock } from '../../src/tunnel/sleep-clock.ts'
import { loadPlatform } from '../../src/tunnel/tun/open.ts'
import { MemoryNetwork } from '../../src/tunnel/udp-memory.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { addresses, ask, createMachine } from './machines.ts'
import { echoRequest } from './wireguard/packets.ts'

describe('createSleepClock', () => {
  test('goes on by what the machine slept since it was made, at each look, and never back', async () => {
    let slept = 1_000
    const awake = createFakeClock(50)
    const clock = createSleepClock(() => slept, awake)
    const seen = [clock.monotonicMs()]
    for (const next of [1_000, 9_000, 8_999, 9_001]) {
      slept = next
      seen.push(clock.monotonicMs())
      clock.look()
      seen.push(clock.monotonicMs())
    }
    await awake.advance(7)
    expect(seen).toEqual([50, 50, 50, 50, 8_050, 8_050, 8_050, 8_050, 8_051])
    expect(clock.monotonicMs()).toBe(8_058)
  })

  test.skipIf(process.platform !== 'linux')('the system says how long it slept', async () => {
    const { sleptMs } = await loadPlatform()
    expect(Number.isFinite(sleptMs())).toBe(true)
  })
})

describe('a member whose machine slept', () => {
  /** A member that slept for eight hours beside a hub that did not. */
  async function wakeUp() {
    const network = new MemoryNetwork()
    const [hubTime, memberTime] = [createFakeClock(1_000), createFakeClock(1_000)]
    let slept = 0
    const clock = createSleepClock(() => slept, memberTime)
    const at = (address: string) => ({ address, port: 51_820 })
    const hub = createMachine({ kind: 'hub', openSocket: (e) => network.open(at('192.0.2.3'), e), clock: hubTime })
    const member = createMachine({
      kind: 'member',
      openSocket: (engine) => network.open(at('192.0.2.1'), engine),
      clock: { ...memberTime, ...clock },
    })
    hub.engine.setGateways([addresses.gateway4], [])
    const toMember = { keepaliveSeconds: 0, allowedPrefixes: [`${addresses.alice4}/32`] }
    const toHub = { keepaliveSeconds: 0, allowedPrefixes: ['10.64.0.0/16'], endpoint: at('192.0.2.3') }
    ask(hub, 1, { kind: 'setPeer', peer: { ...toMember, publicKey: member.publicKey } })
    ask(member, 1, { kind: 'setPeer', peer: { ...toHub, publicKey: hub.publicKey } })
    /** Pings the hub; true when the answer comes without any timer. */
    const isAnswered = () => {
      member.device.takeWritten()
      member.device.inject(echoRequest({ from: addresses.alice4, to: addresses.gateway4 }))
      while ([hub, member].map(({ pump }) => pump.turn()).includes(true));
      return member.device.takeWritten().length === 1
    }
    expect(isAnswered()).toBe(true)
    slept = 8 * 3_600_000
    await hubTime.advance(slept)
    hub.pump.tick()
    return { member, clock, isAnswered }
  }

  test('renews its session with the first packet after its clock was looked at', async () => {
    const { member, clock, isAnswered } = await wakeUp()
    clock.look()
    member.pump.tick()
    expect([isAnswered(), isAnswered()]).toEqual([true, true])
    expect(member.engine.counters()).toMatchObject({ handshakesCompleted: 2 })
  })

  test('would send into a session that is no more if its clock stood still', async () => {
    const { member, isAnswered } = await wakeUp()
    member.pump.tick()
    expect(isAnswered()).toBe(false)
  })
})
