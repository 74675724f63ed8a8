import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { inside, ownName, sh, whyNot } from './tunnel-network.ts'

/* The rules for marks, made by processes that know nothing of each other, as two background processes of one machine are. */

const reason = whyNot()
const namespace = ownName('nsmlm')
const source = JSON.stringify(join(import.meta.dirname, '../../src/tunnel/tun/linux-marks.ts'))
const program = `import { createInterface } from 'node:readline'; import { dropMarkRules, passTables } from ${source}
  for await (const line of createInterface({ input: process.stdin })) {
    const [act, mark] = line.split(' ')
    if (act === 'drop') for (const family of [4, 6]) dropMarkRules(family)
    console.log(act === 'drop' ? 0 : passTables(Number(mark), act === 'add'))
  }`

describe.skipIf(reason)(`rules for the marks of tunnels${reason ? `: skipped, ${reason}` : ''}`, () => {
  const children: ChildProcessWithoutNullStreams[] = []

  /** A process that makes and removes rules in the namespace, as it is told. */
  function start() {
    const node = [process.execPath, '--input-type=module', '-e', program]
    const child = spawn('ip', ['netns', 'exec', namespace, ...node])
    children.push(child)
    const lines = createInterface({ input: child.stdout })
    return async (act: string) => {
      const said = once(lines, 'line')
      child.stdin.write(`${act}\n`)
      return Number((await said)[0])
    }
  }
  /** Those of ours, in each family. */
  async function rules(): Promise<string[][]> {
    const texts = await Promise.all(['-4', '-6'].map((family) => inside(namespace, 'ip', family, 'rule')))
    return texts.map((text) => [...text.matchAll(/^2827\d:\s+from all (.*?)\s*$/gm)].map(([, rule = '']) => rule))
  }
  const both = (...wanted: string[]) => [wanted, wanted]
  const goto = (mark: number) => `fwmark 0x${mark.toString(16)} goto 28278`

  beforeEach(async () => {
    await sh('ip', 'netns', 'add', namespace)
  })
  afterEach(async () => {
    const ended = children.splice(0).map((child) => {
      const closed = once(child, 'close')
      child.stdin.end()
      return closed
    })
    await Promise.all(ended)
    await sh('ip', 'netns', 'del', namespace)
  })

  test('of two processes stay for the one when the other ends, and a jump always finds its landing', async () => {
    const [one, other] = [start(), start()]
    expect([await one('add 7'), await other('add 7'), await other('add 8')]).toEqual([0, 0, 0])
    expect(await one('del 7')).toBe(0)
    expect(await rules()).toEqual(both(goto(7), goto(8), 'nop', 'nop'))
    expect(await one('add 9')).toBe(0)
    expect([await other('del 7'), await other('del 8')]).toEqual([0, 0])
    expect(await rules()).toEqual(both(goto(9), 'nop'))
    expect(await one('del 9')).toBe(0)
    expect(await rules()).toEqual(both())
  })

  test('come with the first tunnel of a mark and go with its last', async () => {
    const one = start()
    expect([await one('add 7'), await one('add 7'), await one('del 7')]).toEqual([0, 0, 0])
    expect(await rules()).toEqual(both(goto(7), 'nop'))
    expect(await one('del 7')).toBe(0)
    expect(await rules()).toEqual(both())
  })

  test('of processes that were killed go all at once', async () => {
    const [one, other] = [start(), start()]
    for (const act of ['add 7', 'add 8']) expect([await one(act), await other(act)]).toEqual([0, 0])
    expect(await start()('drop')).toBe(0)
    expect(await rules()).toEqual(both())
    // What is gone already is not missed.
    expect(await one('del 7')).toBe(0)
  })

  test('leave somebody else’s rule at the same place alone', async () => {
    const one = start()
    const theirs = ['rule', 'add', 'pref', '28278', 'goto', '30000']
    await inside(namespace, 'ip', ...theirs)
    expect([await one('add 7'), await one('del 7')]).toEqual([0, 0])
    expect(await rules()).toEqual([['goto 30000 [unresolved]'], []])
  })
})
