import { expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { createLog } from '../../src/base/log.ts'
import { HostSide } from '../../src/connection/host-side.ts'
import type { InterfaceSettings } from '../../src/tunnel/tun/host.ts'

const settings = {
  interfaceName: 'nsm0',
  addresses: ['10.64.0.2/32', 'fd64::2/128'],
  routes: ['10.64.0.0/16', 'fd64:1::/64'],
  mtuBytes: 1_420,
}

async function place() {
  const kernel = { isUp: true, told: [] as InterfaceSettings[], log: [] as string[] }
  const machine = {
    configureInterface: async () => async () => {},
    updateInterface: async (before: InterfaceSettings, after: InterfaceSettings) => {
      kernel.told.push(after)
      if (kernel.isUp || before.routes.length === after.routes.length) return
      throw new NsmError('BUG', 'the interface is down', 'set it up')
    },
    openFence: async () => ({ set: async () => {}, close: async () => {} }),
  }
  const write = (line: string) => void kernel.log.push(line)
  const host = new HostSide(machine, createLog({ level: 'info', format: 'text', write, wallMs: () => 0 }))
  await host.place(settings)
  return { kernel, host }
}

/** What the kernel leaves when an interface is set down. */
const left = { addresses: [{ interfaceName: 'nsm0', prefix: '10.64.0.2/32' }], routes: [] }

test('HostSide sets routes and then addresses again, and says so once', async () => {
  const { kernel, host } = await place()
  await host.restore(left)
  expect(kernel.told).toEqual([{ ...settings, addresses: ['10.64.0.2/32'] }, settings])
  expect(kernel.log).toEqual([expect.stringContaining('prefixes=3')])
})

test('HostSide sets no address again while the interface takes no routes, and says nothing', async () => {
  const { kernel, host } = await place()
  kernel.isUp = false
  await expect(host.restore(left)).rejects.toMatchObject({ message: 'the interface is down' })
  expect(kernel.told.map(({ addresses }) => addresses)).toEqual([['10.64.0.2/32']])
  expect(kernel.log).toEqual([])
})

test('HostSide leaves alone what is all there, in another spelling too', async () => {
  const { kernel, host } = await place()
  const own = (prefix: string) => ({ interfaceName: 'nsm0', prefix, gateway: undefined })
  await host.restore({ addresses: ['10.64.0.2/32', 'fd64:0::2/128'].map(own), routes: settings.routes.map(own) })
  expect([kernel.told, kernel.log]).toEqual([[], []])
})
