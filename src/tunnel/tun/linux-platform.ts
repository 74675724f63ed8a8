/* Everything of the tunnel that is Linux's own, in one place for `open.ts` to choose. */

export { openUdp } from '../udp-linux.ts'
export { LinuxUdpSocket } from '../udp-linux-socket.ts'
export { openTun } from './linux.ts'
export { openHostChanges } from './linux-changes.ts'
export { LinuxTunDevice } from './linux-device.ts'
export { LinuxFence, removeLeftGuards } from './linux-fence.ts'
export { applyChange, deleteInterface, lookUpRoute, readNetwork } from './linux-host.ts'
export { passTables } from './linux-marks.ts'
export { sleptMs } from './linux-sleep.ts'
export { openWake, PollWaiter } from './linux-wake.ts'
