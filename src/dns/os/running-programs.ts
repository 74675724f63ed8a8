import { readdir, readFile } from 'node:fs/promises'
import { keepingClock, sleep } from '../../base/clock.ts'

/** In the environment of every program that changes the system's resolver for us, and of what it starts: our process id. */
export const changeMark = 'NSM_CHANGES_RESOLVER'

/** Ours: a program that still runs after this time is not waited for any more; it was to end within it. */
const waitMs = 5_000
const lookAgainMs = 20

/** Waits for programs that a killed nsm of this process id left running: what they change after our undo would stay. */
export async function waitForPrograms(nsmPid: number): Promise<void> {
  const endMs = keepingClock.monotonicMs() + waitMs
  while ((await isAnyRunning(nsmPid)) && keepingClock.monotonicMs() < endMs) await sleep(keepingClock, lookAgainMs)
}

async function isAnyRunning(nsmPid: number): Promise<boolean> {
  const names = await readdir('/proc').catch(() => [])
  const pids = names.filter((name) => /^\d+$/.test(name))
  const marks = await Promise.all(pids.map((pid) => hasMark(pid, nsmPid)))
  return marks.includes(true)
}

/** A process that has ended meanwhile, or is somebody else's, has no mark. */
async function hasMark(pid: string, nsmPid: number): Promise<boolean> {
  const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '')
  return environment.split('\0').includes(`${changeMark}=${nsmPid}`)
}
