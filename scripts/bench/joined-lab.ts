import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import type { ConnectionView, ConnectResult } from '../../src/daemon/protocol.ts'
import { type Lab, type Machine, openLab } from '../demo/lab.ts'
import { firstLines } from '../demo/output.ts'
import { need } from '../demo/seen.ts'

/** A lab with a running `nsm serve` and laptops that may join it. */
export interface JoinedLab {
  readonly lab: Lab
  readonly server: Machine
  /** Process id of `nsm serve`. */
  readonly serverPid: number
  /** Joins a laptop for the first time. */
  join(machine: Machine): Promise<ConnectionView>
  close(): Promise<void>
}

/** The service that every section uses. */
export const benchService = 'my-networkservice-1'

/** Opens a lab with a server and `laptops` machines named laptop-1, laptop-2, ... */
export async function openJoinedLab(laptops: number): Promise<JoinedLab> {
  const names = Array.from({ length: laptops }, (_, index) => `laptop-${index + 1}`)
  const lab = await openLab({
    kind: 'nsm-bench',
    machines: ['server', ...names],
    nameserver: '192.0.2.1',
  })
  try {
    const server = lab.machine('server')
    const serving = server.startNsm(['serve', '--advertise', server.address])
    await firstLines(serving, 'nsm://')
    return {
      lab,
      server,
      serverPid: serving.pid ?? Number.NaN,
      join: (machine) => joinFirst(server, machine),
      close: lab.close,
    }
  } catch (error) {
    await lab.close()
    throw error
  }
}

async function joinFirst(server: Machine, machine: Machine): Promise<ConnectionView> {
  const invited = need(await server.nsm(['invite', '--id', machine.name]))
  const joinFile = join(machine.dir, 'join.txt')
  await writeFile(joinFile, invited.out, { mode: 0o600 })
  const result: ConnectResult = JSON.parse(
    need(await machine.nsm(['connect', '--join', joinFile, benchService, '--json'])).out,
  )
  const [view] = result.connections
  if (!view) throw new NsmError('BUG', 'connect gave no connection', '')
  return view
}

/** The process id of the background process of a machine. */
export async function daemonPid(machine: Machine): Promise<number> {
  const version: { daemon?: { pid: number } } = JSON.parse(need(await machine.nsm(['version', '--json'])).out)
  return version.daemon?.pid ?? Number.NaN
}
