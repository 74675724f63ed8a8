import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, test } from 'vitest'
import { runProgram } from '../../../src/dns/os/run-program.ts'
import { changeMark, waitForPrograms } from '../../../src/dns/os/running-programs.ts'

describe('runProgram', () => {
  test('gives what a program said', async () => {
    expect(await runProgram('sh', ['-c', 'echo out; echo err >&2'])).toEqual({
      ok: true,
      stdout: 'out\n',
      stderr: 'err\n',
    })
  })

  test.each([
    ['fails', ['sh', '-c', 'echo no >&2; exit 3'], 'no\n'],
    ['is not there', ['nsm-no-such-program'], 'spawn nsm-no-such-program ENOENT'],
  ])('of a program that %s says so and does not throw', async (_what, [program = '', ...args], words) => {
    expect(await runProgram(program, args)).toMatchObject({ ok: false, stderr: words })
  })

  test('hands on nothing of our environment or input, and words in English', async () => {
    const { stdout } = await runProgram('sh', ['-c', 'cat; env; pwd'])
    const names = stdout.split('\n').map((line) => line.split('=')[0] ?? '')
    expect(names).toEqual(expect.arrayContaining(['PATH', 'LC_ALL', changeMark, '/']))
    expect(names).not.toContain('HOME')
  })

  test('takes arguments as they are', async () => {
    expect((await runProgram('printf', ['%s|', 'a b', '$(id)', '*'])).stdout).toBe('a b|$(id)|*|')
  })
})

describe('waitForPrograms', () => {
  test('waits for what a killed process left running, also for what that has started', async () => {
    const env = { PATH: process.env['PATH'], [changeMark]: '4194305' }
    const child = spawn('sh', ['-c', 'sh -c "echo ready; read line"'], { env, stdio: ['pipe', 'pipe', 'ignore'] })
    await once(child.stdout, 'data')
    let isOver = false
    const waiting = waitForPrograms(4_194_305).then(() => {
      isOver = true
    })
    await waitForPrograms(4_194_306)
    expect(isOver).toBe(false)
    const ended = once(child, 'exit')
    child.stdin.end()
    await ended
    await waiting
    expect(isOver).toBe(true)
  })
})
