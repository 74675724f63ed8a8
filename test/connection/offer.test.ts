import { describe, expect, test } from 'vitest'
import { makeOffer } from '../../src/connection/offer.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'

const privateKey = generatePrivateKey()

/** A machine with one way to the manager; the wanted port is free or not. */
const machineWith = (sourceAddress: string, mtuBytes: number, isPortFree = true) => ({
  routeTo: async () => ({ interfaceName: 'eth0', sourceAddress, mtuBytes }),
  freeUdpPort: async (wanted: number) => (isPortFree ? wanted : 40_000),
})
const offerOn = (
  machine: Parameters<typeof makeOffer>[0]['machine'],
  change: { listenPort?: number; mtuBytes?: number } = {},
) =>
  makeOffer({
    machine,
    managerAddress: '192.0.2.1',
    wanted: change.mtuBytes === undefined ? {} : { mtuBytes: change.mtuBytes },
    privateKey,
    listenPort: change.listenPort ?? 0,
  })

describe('makeOffer', () => {
  test.each([
    ['IPv4 on Ethernet', '192.0.2.7', 1_500, 1_420],
    ['IPv6 on Ethernet', '2001:db8::7', 1_500, 1_420],
    ['IPv4 on a narrow path', '192.0.2.7', 1_400, 1_340],
    ['IPv6 on a narrow path', '2001:db8::7', 1_400, 1_320],
    ['IPv4 with jumbo frames', '192.0.2.7', 9_000, 1_420],
  ])('leaves room for the outer headers: %s', async (_what, source, ofPath, mtuBytes) => {
    expect(await offerOn(machineWith(source, ofPath))).toMatchObject({ sourceAddress: source, mtuBytes })
  })

  test('takes the MTU that the user wants', async () => {
    expect((await offerOn(machineWith('192.0.2.7', 1_400), { mtuBytes: 1_300 })).mtuBytes).toBe(1_300)
  })

  test('offers the port that clusters let through, another when it is taken, and keeps what it offered before', async () => {
    expect((await offerOn(machineWith('192.0.2.7', 1_500))).listenPort).toBe(51_820)
    expect((await offerOn(machineWith('192.0.2.7', 1_500, false))).listenPort).toBe(40_000)
    expect((await offerOn(machineWith('192.0.2.7', 1_500), { listenPort: 50_000 })).listenPort).toBe(50_000)
  })

  test('shows the public key only', async () => {
    const offer = await offerOn(machineWith('192.0.2.7', 1_500))
    expect(Buffer.from(offer.publicKey)).toEqual(Buffer.from(publicKeyOf(privateKey)))
    expect(JSON.stringify(offer)).not.toContain(JSON.stringify(privateKey))
  })

  test('is UNREACHABLE without a route, and names the manager', async () => {
    const machine = { routeTo: async () => undefined, freeUdpPort: async (wanted: number) => wanted }
    await expect(offerOn(machine)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('192.0.2.1'),
    })
  })
})
