import { beforeEach, describe, expect, test, vi } from 'vitest'
import { openWake } from '../../src/tunnel/tun/linux-wake.ts'
import { openRestartableTunnel, type RestartableTunnel } from '../../src/tunnel/tunnels.ts'
import { generatePrivateKey } from '../../src/tunnel/wireguard/engine.ts'

/* A member's tunnel whose interface is a descriptor that no packet comes from. No root. */

const onLinux = process.platform === 'linux'
const closed: string[] = []

vi.mock(import('../../src/tunnel/tun/open.ts'), async (original) => {
  const platform = await (await original()).loadPlatform()
  const openTun = (name: string) => {
    const { fd, close } = openWake()
    const isClosed = () => {
      closed.push(name)
      close()
    }
    return { name, fd, vnetHeader: false, merging: { tcp: false, udp: false }, close: isClosed }
  }
  return { loadPlatform: async () => ({ ...platform, openTun, applyChange: () => 0 }) }
})

const device = () => ({ privateKey: generatePrivateKey(), listenPort: 0 })

describe.skipIf(!onLinux)(`a tunnel of a member${onLinux ? '' : ': skipped, needs Linux'}`, () => {
  let tunnel: RestartableTunnel

  beforeEach(async () => {
    closed.length = 0
    tunnel = await openRestartableTunnel({ ...device(), interfaceName: 'nsm-test', mtuBytes: 1_420, peers: [] })
  })

  test('that is restarted has another port, and its interface stays', async () => {
    const before = tunnel.listenPort
    await tunnel.restart(device())
    expect(tunnel.listenPort).not.toBe(before)
    expect((await tunnel.stats()).peers).toEqual([])
    expect(closed).toEqual([])
    await tunnel.close()
    expect(closed).toEqual(['nsm-test'])
  })

  test('that is closed during a restart ends after it, and no thread is left with its descriptors', async () => {
    const restarted = tunnel.restart(device())
    const over = vi.fn()
    void tunnel.failed.then(over)
    await Promise.all([restarted, tunnel.close()])
    expect(closed).toEqual(['nsm-test'])
    await expect(tunnel.stats()).rejects.toMatchObject({ code: 'NOT_READY' })
    expect(over).not.toHaveBeenCalled()
  })

  test('that is closed is not started again', async () => {
    await tunnel.close()
    await expect(tunnel.restart(device())).rejects.toMatchObject({ code: 'NOT_READY' })
    await tunnel.close()
    expect(closed).toEqual(['nsm-test'])
  })
})
