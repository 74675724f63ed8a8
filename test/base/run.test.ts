import { describe, expect, test } from 'vitest'
import { runProgram } from '../../src/base/run.ts'

const node = process.execPath

describe('runProgram', () => {
  test('gives the standard output and passes the input', async () => {
    expect(await runProgram('cat', [], { input: 'one\ntwo\n' })).toBe('one\ntwo\n')
  })

  test('passes arguments as they are, without a shell', async () => {
    expect(await runProgram('echo', ['$HOME', '`id`', '; ls'])).toBe('$HOME `id` ; ls\n')
  })

  test('gives the program a small, fixed environment', async () => {
    process.env['NSM_TEST_SECRET'] = 'hidden'
    const said = await runProgram('env', [])
    delete process.env['NSM_TEST_SECRET']
    expect(said).not.toContain('hidden')
    expect(said).toContain('LC_ALL=C')
  })

  test('fails with what the program said', async () => {
    const failed = runProgram('ls', ['/nonexistent/place'])
    await expect(failed).rejects.toMatchObject({ code: 'BUG', message: expect.stringContaining('/nonexistent/place') })
  })

  test('says which program is to be installed', async () => {
    const failed = runProgram('nsm-no-such-program', [])
    await expect(failed).rejects.toMatchObject({ next: 'install nsm-no-such-program' })
  })

  test('survives a program that ends without reading its input', async () => {
    const input = 'x'.repeat(4_000_000)
    expect(await runProgram('true', [], { input })).toBe('')
    await expect(runProgram('false', [], { input })).rejects.toMatchObject({ code: 'BUG' })
  })

  test('ends a program that takes too long, or that nobody waits for any more', async () => {
    const forever = ['-e', 'setInterval(() => {}, 1000)']
    await expect(runProgram(node, forever, { timeoutMs: 100 })).rejects.toMatchObject({ code: 'BUG' })
    const stop = new AbortController()
    const running = runProgram(node, forever, { signal: stop.signal })
    stop.abort()
    await expect(running).rejects.toMatchObject({ code: 'BUG' })
  })
})
