import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { answeredPings, makeNamespaces, ownName, Program, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, WireguardPeer, wireguardPrograms } from './wireguard-peers.ts'

/* New keys while packets flow, against each userspace WireGuard of somebody else. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg')
const [ours, theirs, bridge] = [ownName('nsmh-ra'), ownName('nsmh-rb'), ownName('nsmh-rbr')]
const port = 51_820
/** [WG 6.1] One initiation per 20 ms is accepted; then the next one waits 5 s. */
const betweenMs = 40
const renewals = 50

describe.skipIf(reason)(`new keys${reason ? `: skipped, ${reason}` : ''}`, () => {
  const files = new Files()
  let peer: WireguardPeer | undefined
  let program: Program | undefined

  beforeAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    await makeNamespaces([ours, theirs], bridge)
  })
  afterEach(async () => {
    await program?.kill()
    await peer?.stop()
  })
  afterAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    files.remove()
  })

  for (const other of wireguardPrograms) {
    const why = other.path ? '' : `: skipped, ${other.name} is not here (npm run bench -- tunnel builds it)`
    test.skipIf(!other.path)(`${renewals} times in a row lose no packet with ${other.name}${why}`, async () => {
      const [us, them] = [keyPair(), keyPair()]
      peer = new WireguardPeer(other, { namespace: theirs, interfaceName: 'nsmhrk' })
      const config = `[Interface]\nPrivateKey = ${them.privateKey}\nListenPort = ${port}\n[Peer]\nPublicKey = ${us.publicKey}\nAllowedIPs = 10.96.0.1/32`
      await peer.start(files.write('peer.conf', config), ['10.96.0.2/32'], ['10.96.0.0/24'])
      program = new Program(ours, {
        privateKey: us.privateKey,
        addresses: ['10.96.0.1/32'],
        routes: ['10.96.0.0/24'],
        peers: [
          {
            publicKey: them.publicKey,
            keepaliveSeconds: 0,
            endpoint: { address: '192.0.2.2', port },
            allowedPrefixes: ['10.96.0.0/24'],
          },
        ],
      })
      expect(await program.next()).toHaveProperty('ready')
      await program.ask(`handshake ${them.publicKey}`)
      const answered = answeredPings(ours, { to: '10.96.0.2', count: 600, everySeconds: 0.01 })
      for (let i = 0; i < renewals; i++) {
        await new Promise((settle) => setTimeout(settle, betweenMs))
        expect(await program.ask(`handshake ${them.publicKey}`)).toEqual({ done: 'handshake' })
      }
      expect(await answered).toEqual(Array.from({ length: 600 }, (_, i) => i + 1))
      const { stats } = await program.ask('stats')
      expect(stats?.counters['handshakesCompleted']).toBeGreaterThanOrEqual(renewals)
    })
  }
})
