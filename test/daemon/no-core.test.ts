import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { scratchDir } from '../support/scratch.ts'

/** Runs a command in a folder of its own with no limit on images of memory, as a careless machine has it. */
const careless = ['-c', 'ulimit -c unlimited && cd "$0" && exec "$@"']

async function dies(...args: readonly string[]) {
  const dir = await scratchDir()
  const program = join(import.meta.dirname, '../support/no-core-program.ts')
  const { stdout, signal } = spawnSync('sh', [...careless, dir, process.execPath, program, ...args])
  return { said: `${stdout}`.trim(), signal, files: readdirSync(dir) }
}

const control = await dies()
const leaves = control.files.length > 0 ? '' : ': skipped, this machine leaves none in the folder'

test.skipIf(leaves !== '')(`a process that dies leaves an image of its memory${leaves}`, () => {
  expect(control).toEqual({ said: '1 1', signal: 'SIGABRT', files: [expect.stringMatching(/^core/)] })
})

test('a process that forbids it leaves none, also where a handler of the system would take it', async () => {
  expect(await dies('forbid')).toEqual({ said: '1 0', signal: 'SIGABRT', files: [] })
})

test('nsm serve leaves none, from before it has a key', async () => {
  const dir = await scratchDir()
  const env = { ...process.env, NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  const where = ['--listen', '127.0.0.1:0', '--wireguard-port', '0', '--advertise', '127.0.0.1']
  const serve = spawn('sh', [...careless, dir, nsmProgram, 'serve', ...where], { env })
  onTestFinished(() => void serve.kill('SIGKILL'))
  await once(serve.stdout, 'data')
  expect(readFileSync(`/proc/${serve.pid}/limits`, 'utf8')).toMatch(/^Max core file size +0 +0 /m)
  serve.kill('SIGABRT')
  expect((await once(serve, 'exit'))[1]).toBe('SIGABRT')
  expect(readdirSync(dir).filter((name) => name.startsWith('core'))).toEqual([])
})
