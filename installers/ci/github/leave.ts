import { rm } from 'node:fs/promises'
import { type Environment, runAsRoot, step } from './job.ts'

/* After the job, however it ended: leaves the network services, forgets who the job was before the next one comes to this
 * machine, and takes the program away; each of the three, whatever became of the one before it. */

await step(leave)

async function leave(environment: Environment): Promise<number> {
  const { STATE_folder: folder, STATE_program: program, STATE_connected: connected } = environment
  try {
    return program ? disconnect(program, { environment, isKnown: Boolean(connected) }) : 0
  } finally {
    if (folder) await rm(folder, { recursive: true, force: true })
  }
}

function disconnect(program: string, { environment, isKnown }: { environment: Environment; isKnown: boolean }): number {
  let left = 0
  let forgotten = 0
  try {
    left = runAsRoot(program, ['disconnect', '--all'], environment)
  } finally {
    if (isKnown) forgotten = runAsRoot(program, ['logout'], environment)
  }
  return left === 0 ? forgotten : left
}
