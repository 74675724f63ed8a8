import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { killed } from '../support/local-process.ts'

/*
 * The service's server is reached inside its tunnel only [security D2]. Outside, behind the default route, a server has the
 * same address: whatever leaves the tunnel would be heard there.
 */
const execute = promisify(execFile)
const able =
  process.getuid?.() === 0 &&
  (await execute('ip', ['netns', 'list']).then(
    () => true,
    () => false,
  ))
const prefix = `nsml${process.pid}`
const [here, inside, outside] = [`${prefix}h`, `${prefix}t`, `${prefix}o`]
const program = resolve(import.meta.dirname, '../support/dns-leak-program.ts')
const heard = { inside: [] as string[], outside: [] as string[] }
let servers: ChildProcess[] = []

describe.skipIf(!able)(`netns: names and their tunnel${able ? '' : ' (skipped, needs root and ip)'}`, () => {
  beforeEach(async () => {
    for (const name of [here, inside, outside]) {
      await execute('ip', ['netns', 'add', name])
      await execute('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
    }
    await cable({ near: 't0', address: '10.64.0.2/24', far: inside, farAddress: '10.64.0.53/24' })
    await cable({ near: 'd0', address: '192.0.2.2/24', far: outside, farAddress: '192.0.2.1/24' })
    await execute('ip', ['-n', here, 'route', 'add', 'default', 'via', '192.0.2.1'])
    await execute('ip', ['-n', outside, 'address', 'add', '10.64.0.53/32', 'dev', 'lo'])
    await execute('ip', ['-n', outside, 'route', 'add', '10.64.0.2/32', 'via', '192.0.2.2'])
    servers = [await serve(inside, '1', heard.inside), await serve(outside, '2', heard.outside)]
  })

  afterEach(async () => {
    for (const server of servers) await killed(server)
    for (const name of [here, inside, outside]) await execute('ip', ['netns', 'delete', name])
  })

  test('exclusive: when the tunnel goes, names are not found, and nothing at all is heard outside', async () => {
    const { unreachable, ...outcomes } = await ask('exclusive')
    expect(outcomes).toEqual({ before: ['10.0.0.1'], after: ['SERVFAIL'], fresh: ['SERVFAIL'] })
    // Each question hears at once that there is no way, and is not sent again.
    expect(unreachable).toBe(100)
    expect(heard.inside.length).toBeGreaterThanOrEqual(100)
    expect(heard.outside).toEqual(['sentinel'])
  })

  test("fanout: what is heard outside is the host's own question and no other", async () => {
    const { after, fresh } = await ask('fanout')
    expect([after, fresh]).toEqual([['10.0.0.2'], ['10.0.0.2']])
    const each = (front: string, count: number) => Array.from({ length: count }, (_, i) => `${front}${i}`)
    const once = [...each('before', 100), ...each('after', 100), ...each('fresh', 20), 'sentinel']
    // A machine that stands still for a while has our resolver ask again.
    expect([...new Set(heard.outside)].toSorted()).toEqual(once.toSorted())
  })
})

async function ask(mode: string): Promise<Record<string, unknown>> {
  for (const list of Object.values(heard)) list.length = 0
  const { stdout } = await execute('ip', ['netns', 'exec', here, process.execPath, program, 'ask', mode])
  await expect.poll(() => heard.outside).toContain('sentinel')
  return JSON.parse(stdout)
}

async function cable(ends: {
  readonly near: string
  readonly address: string
  readonly far: string
  readonly farAddress: string
}): Promise<void> {
  const { near, address, far, farAddress } = ends
  const link = ['link', 'add', near, 'netns', here, 'type', 'veth', 'peer', 'name', near, 'netns', far]
  await execute('ip', link)
  for (const [name, own] of [
    [here, address],
    [far, farAddress],
  ] as const) {
    await execute('ip', ['-n', name, 'address', 'add', own, 'dev', near])
    await execute('ip', ['-n', name, 'link', 'set', near, 'up'])
  }
}

async function serve(namespace: string, last: string, list: string[]): Promise<ChildProcess> {
  const words = ['netns', 'exec', namespace, process.execPath, program, 'server', last]
  const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'inherit'] })
  child.stdout.setEncoding('utf8')
  await once(child.stdout, 'data')
  child.stdout.on('data', (text: string) => list.push(...text.split('\n').filter((line) => line !== '')))
  return child
}
