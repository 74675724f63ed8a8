import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { onLoopback, type StartedServe, startedServe } from '../support/started-serve.ts'

const nsm = nsmProgram
const dir = mkdtempSync(join(tmpdir(), 'nsm-signals-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** A server on loopback and free ports, with a state folder of its own; resolves when it printed its join string. */
function startServe(name: string, extra: readonly string[] = []): Promise<StartedServe> {
  const state = join(dir, name)
  const env = { ...process.env, NSM_STATE_DIR: state, NSM_RUNTIME_DIR: join(state, 'run') }
  return startedServe(nsm, [...onLoopback, ...extra], { env })
}

describe('nsm serve', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)(
    'ends on %s with %i after its teardown, and can be started again on the same state',
    async (signal, exitCode) => {
      for (let starts = 0; starts < 2; starts++) {
        const { child } = await startServe(signal)
        const ended = once(child, 'exit')
        child.kill(signal)
        expect((await ended)[0]).toBe(exitCode)
      }
    },
  )

  test('with --json prints one document and stays', async () => {
    const { child, out } = await startServe('json', ['--json'])
    expect(child.exitCode).toBeNull()
    const ended = once(child, 'exit')
    child.kill()
    await ended
    const served = JSON.parse(out)
    expect(served).toMatchObject({ apiVersion: 'nsm/serve/v1', service: 'my-networkservice-1' })
    // The ports that it got, not the 0 that asked for any.
    expect(served.joinString).toContain(`nsm://${served.listen}/`)
    expect(served.wireguardPort).toBeGreaterThan(0)
  })

  test('refuses a second server on the same state with CONFLICT', async () => {
    const { child } = await startServe('twice')
    const state = join(dir, 'twice')
    const env = { ...process.env, NSM_STATE_DIR: state, NSM_RUNTIME_DIR: join(state, 'run') }
    const second = spawn(nsm, ['serve', '--listen', '127.0.0.1:0', '--wireguard-port', '0'], { env, stdio: 'ignore' })
    expect((await once(second, 'exit'))[0]).toBe(8)
    const ended = once(child, 'exit')
    child.kill()
    await ended
  })
})
