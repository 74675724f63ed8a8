import { spawnSync } from 'node:child_process'
import { NsmError } from '../../src/base/errors.ts'
import { buildTimeS } from './build-time.ts'

/**
 * Runs a program of the build to its end, which takes the commit's time for its own, and whose input is the build's; throws `USAGE` when it is not
 * installed, `BUG` with its words when it fails.
 */
export function runTool(program: string, args: readonly string[], cwd?: string): void {
  const env = { ...process.env, SOURCE_DATE_EPOCH: String(buildTimeS()), TZ: 'UTC' }
  const { status, error, stderr } = spawnSync(program, args, {
    ...(cwd === undefined ? {} : { cwd }),
    env,
    stdio: ['inherit', 'pipe', 'pipe'],
    encoding: 'utf8',
  })
  if (error) throw new NsmError('USAGE', `${program} cannot be run: ${error.message}`, 'install it', { cause: error })
  if (status !== 0) throw new NsmError('BUG', `${program} failed: ${stderr.trim()}`, `run it: ${args.join(' ')}`)
}
