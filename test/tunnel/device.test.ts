import { MemoryTunDevice } from '../../src/tunnel/tun/memory.ts'
import { testMemory, tunContract } from './contracts.ts'
import { udpPacket } from './wireguard/packets.ts'

tunContract(
  'memory',
  async () => {
    const memory = testMemory()
    const device = new MemoryTunDevice(memory)
    return {
      device,
      memory,
      inject: (packet) => device.inject(packet),
      takeWritten: () => device.takeWritten(),
      remove: () => device.remove(),
      close: () => {},
    }
  },
  () => udpPacket({ from: '10.64.0.2', to: '10.64.0.3', payload: Buffer.from('hi') }),
)
