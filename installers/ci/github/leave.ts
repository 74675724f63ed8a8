import { rm } from 'node:fs/promises'
import { type Environment, runAsRoot, step } from './job.ts'

/* After the job, however it ended: leaves the network services, forgets who the job was before the next one comes to this
 * machine, and takes the program away. */

await step(leave)

async function leave(environment: Environment): Promise<number> {
  const { STATE_folder: folder, STATE_program: program, STATE_connected: connected } = environment
  try {
    const left = program ? runAsRoot(program, ['disconnect', '--all'], environment) : 0
    const forgotten = program && connected ? runAsRoot(program, ['logout'], environment) : 0
    return left === 0 ? forgotten : left
  } finally {
    if (folder) await rm(folder, { recursive: true, force: true })
  }
}
