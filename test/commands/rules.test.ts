import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { commandTable } from '../../src/commands/command-table.ts'
import { describe as describeEntry, runCommandLine } from '../../src/commands/main.ts'
import { fakeContext } from './fake-context.ts'

const ids = commandTable.map(({ id }) => id)
const docs = resolve(import.meta.dirname, '../../docs/commands')
/** A call of each command that succeeds, its id first; what serves is stopped before it begins. */
const working: readonly (readonly [string, ...string[]])[] = [
  ['connect', 'a'],
  ['disconnect'],
  ['status'],
  ['audit'],
  ['list'],
  ['invite'],
  ['cleanup'],
  ['serve'],
  ['version'],
  ['policy test', '--id', 'spiffe://a/b', '--action', 'find'],
  ['policy check'],
  ['ca status'],
  ['ca rotate'],
  ['ca bundle'],
  ['dns status'],
  ['dns query', 'a.example'],
  ['dns trace', 'a.example'],
  ['dns flush'],
  ['dns serve'],
  ['tunnel up', '-', '--interface', 'wg0'],
  ['tunnel down', 'wg0'],
  ['tunnel status'],
  ['login', '--method', 'device', '--join', '-'],
  ['logout'],
  ['whoami'],
]

describe('the command table', () => {
  test('names each command and alias once', () => {
    const names = commandTable.flatMap(({ id, aliases }) => [id, ...aliases])
    expect(new Set(names).size).toBe(names.length)
  })

  test.each(commandTable)(
    'gives every flag of $id a variable and a summary, and a variable to one flag only',
    async (entry) => {
      const { flags } = await describeEntry(entry)
      const own = flags.filter(({ label }) => label !== '--json')
      for (const flag of own) {
        expect(flag.environment, flag.label).toMatch(/^NSM_[A-Z_]+$/)
        expect(flag.summary, flag.label).not.toBe('')
      }
      const variables = own.map(({ environment }) => environment)
      expect(new Set(variables).size).toBe(variables.length)
    },
  )

  test('has a page for every command', () => {
    for (const id of ids) expect(existsSync(resolve(docs, `${id.replace(' ', '-')}.md`)), id).toBe(true)
  })
})

describe('--json', () => {
  test('is tried with every command', () => {
    expect(working.map(([id]) => id).toSorted()).toEqual(ids.toSorted())
  })

  test.each(working)('of %s is exactly one document with the apiVersion of the command', async (id, ...rest) => {
    const { context, recorded } = fakeContext({
      input: 'nsm://192.0.2.1:5001/?td=x&pin=y',
      signal: id.endsWith('serve') ? AbortSignal.abort() : new AbortController().signal,
      // Nobody logs in while something is connected.
      ...(id === 'login' ? { connections: [] } : {}),
    })
    expect(await runCommandLine([...id.split(' '), ...rest, '--json'], context)).toBe(0)
    expect(recorded.out).toHaveLength(1)
    expect(JSON.parse(recorded.out[0] ?? '')).toMatchObject({ apiVersion: `nsm/${id.replace(' ', '-')}/v1` })
    expect(recorded.err).toEqual([])
  })
})
