import type { Log } from '../../base/log.ts'
import type { Fence } from './host-network.ts'
import { loadPlatform } from './open.ts'

export type { Fence, Fenced } from './host-network.ts'

/** A fence around nothing. Without a packet filter in the system the inbound half is absent, and logged once. */
export async function openFence(log: Log): Promise<Fence> {
  const { LinuxFence } = await loadPlatform()
  return new LinuxFence(log)
}

/** Removes the guards that a killed process left; one beside a living tunnel stays. Gives the prefixes. */
export async function removeLeftGuards(): Promise<readonly string[]> {
  return (await loadPlatform()).removeLeftGuards()
}
