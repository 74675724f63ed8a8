import { describe, expect, test } from 'vitest'
import { type ErrorCode, errorTable, NsmError } from '../../src/base/errors.ts'
import { runCommandLine } from '../../src/commands/main.ts'
import { fakeContext } from './fake-context.ts'

/** A valid call of each command that asks the background process, the server or the repair for something. */
const calls: readonly (readonly string[])[] = [
  ['connect', 'my-networkservice-1'],
  ['disconnect'],
  ['status'],
  ['list'],
  ['serve'],
  ['invite'],
  ['cleanup'],
]
const codes = Object.keys(errorTable).filter((code): code is ErrorCode => Object.hasOwn(errorTable, code))
/** These three mean "nothing runs here" to a command that never starts a background process. */
const harmless = (argv: readonly string[], code: ErrorCode) =>
  code === 'UNREACHABLE' && ['disconnect', 'status', 'cleanup'].includes(argv[0] ?? '')
const rows = calls
  .flatMap((argv) => codes.map((code) => ({ argv, code })))
  .filter(({ argv, code }) => !harmless(argv, code))

describe('every command', () => {
  test.each(rows)(
    '$argv with $code ends with the exit code of the table and one JSON document',
    async ({ argv, code }) => {
      const { context, recorded } = fakeContext({ failure: new NsmError(code, 'what happened', 'what to do') })
      const exitCode = await runCommandLine([...argv, '--json'], context)
      expect(exitCode).toBe(errorTable[code].exit)
      expect(recorded.out).toHaveLength(1)
      expect(JSON.parse(recorded.out[0] ?? '')).toEqual({
        error: { code, message: 'what happened', next: 'what to do' },
      })
      expect(recorded.err).toEqual([])
    },
  )

  test.each(rows)('$argv with $code says in text what happened and what to do', async ({ argv, code }) => {
    const { context, recorded } = fakeContext({ failure: new NsmError(code, 'what happened', 'what to do') })
    const exitCode = await runCommandLine(argv, context)
    expect(exitCode).toBe(errorTable[code].exit)
    expect(recorded.out).toEqual([])
    expect(recorded.err.join('\n')).toContain(`Error (${code}): what happened\nTry this: what to do`)
  })

  test.each(calls)('%s closes the background process after a failure', async (...argv) => {
    const { context, recorded } = fakeContext({ failure: new NsmError('REFUSED', 'no', '') })
    await runCommandLine(argv, context)
    const opened = recorded.calls.filter(({ name }) => name === 'open').length
    expect(recorded.closedDaemons).toBe(opened)
  })

  test.each([...calls, ['version']])('%s with an unknown flag is a USAGE error in both modes', async (...argv) => {
    for (const mode of [[], ['--json']]) {
      const { context, recorded } = fakeContext()
      expect(await runCommandLine([...argv, '--no-such-flag', ...mode], context)).toBe(2)
      expect([...recorded.out, ...recorded.err].join('\n')).toContain('no-such-flag')
      expect(recorded.out).toHaveLength(mode.length)
      expect(recorded.calls).toEqual([])
    }
  })

  test.each([...calls, ['version']])('%s --help shows its usage and runs nothing', async (...argv) => {
    const { context, recorded } = fakeContext()
    expect(await runCommandLine([...argv, '--help'], context)).toBe(0)
    expect(recorded.out.join('\n')).toContain(`USAGE\n  nsm ${argv[0]}`)
    expect(recorded.calls).toEqual([])
  })

  test('an error that is not ours is a BUG and exits 1', async () => {
    const { context, recorded } = fakeContext({ failure: new TypeError('undefined is not a function') })
    expect(await runCommandLine(['list', '--json'], context)).toBe(1)
    expect(JSON.parse(recorded.out.join('')).error.code).toBe('BUG')
  })

  test('a USAGE message with a caret is printed as it came', async () => {
    const message = 'port is not part of a service URL\n  kernel://a:80/b\n           ^'
    const { context, recorded } = fakeContext({ failure: new NsmError('USAGE', message, 'leave the port out') })
    expect(await runCommandLine(['connect', 'kernel://a:80/b'], context)).toBe(2)
    expect(recorded.err.join('\n')).toContain(message)
  })

  test('an unknown command is a USAGE error in both modes', async () => {
    const { context, recorded } = fakeContext()
    expect(await runCommandLine(['conect', '--json'], context)).toBe(2)
    expect(JSON.parse(recorded.out.join('')).error).toMatchObject({ code: 'USAGE', next: 'nsm help' })
    expect(await runCommandLine(['conect'], context)).toBe(2)
    expect(recorded.err.join('')).toContain('there is no command "conect"')
  })
})
