import { NsmError } from '../../src/base/errors.ts'
import type { ConnectionView, ConnectResult } from '../../src/daemon/protocol.ts'
import { durationText } from '../../src/ui/duration.ts'
import type { Ended } from './lab.ts'

/** What `nsm connect` gave, for people. */
export function connectLines(result: ConnectResult, view: ConnectionView): string[] {
  const steps = result.steps.map(({ phase, ms }) => `${phase} ${durationText(ms)}`).join(', ')
  return [
    `usable after ${durationText(result.totalMs)}: ${steps}`,
    `interface ${view.interfaceName} with ${view.addresses.join(' ')}, mtu ${view.mtuBytes}`,
    `routes    ${view.routes.join(' ')}`,
    view.dnsServers.length === 0
      ? 'DNS       none'
      : `DNS       ${view.dnsDomains.join(' ')} at ${view.dnsServers.join(' ')}; own name ${view.name ?? '-'}`,
    `endpoint  ${view.endpoint} at ${view.endpointAddress}`,
  ]
}

/** Gives a program that ended well back; throws `NOT_READY` with its words for any other. */
export function need(ended: Ended): Ended {
  if (ended.exitCode === 0) return ended
  throw new NsmError('NOT_READY', `exit code ${ended.exitCode}: ${`${ended.err}${ended.out}`.trim()}`, '')
}

/** The lines of a text that are not blank. */
export function lines(text: string): string[] {
  return text.split('\n').filter((line) => line.trim() !== '')
}

/** An address without its prefix length. */
export function bare(address: string | undefined): string {
  return (address ?? '').replace(/\/.*/, '')
}
