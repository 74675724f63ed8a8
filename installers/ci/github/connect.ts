import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Environment, input, runAsRoot, say, step } from './job.ts'
import { fetchProgram } from './release.ts'

/* The step: fetches a release, verifies it, and connects. Nothing runs before it is verified. */

await step(connect)

async function connect(environment: Environment): Promise<number> {
  const folder = await mkdtemp(join(environment['RUNNER_TEMP'] ?? tmpdir(), 'nsm-'))
  await say(environment, 'GITHUB_STATE', `folder=${folder}`)
  const [from, version] = [input(environment, 'from'), input(environment, 'version')]
  const proof = { key: input(environment, 'key'), sha256: input(environment, 'sha256') }
  const program = await fetchProgram({ from, version, proof, platform: `linux-${process.arch}` }, folder)
  await say(environment, 'GITHUB_STATE', `program=${program}`)
  await say(environment, 'GITHUB_OUTPUT', `program=${program}`)
  await say(environment, 'GITHUB_PATH', folder)
  const given = input(environment, 'join')
  const words = input(environment, 'arguments')
    .split('\n')
    .filter((word) => word.trim() !== '')
  const more = given === '' ? {} : { NSM_JOIN_STRING: given }
  const status = runAsRoot(program, ['connect', ...words, '--', input(environment, 'service')], {
    ...environment,
    ...more,
  })
  if (status === 0) await say(environment, 'GITHUB_STATE', 'connected=true')
  return status
}
