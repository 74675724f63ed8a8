import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { lastEvents, type ReadEvent } from '../../src/daemon/audit-read.ts'
import { MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

/* The record of a server and of its members, end to end; and secrets that go through every path and stay nowhere. */

const why = whyNotHere()

describe.skipIf(why !== undefined)(`the audit log of a network${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const children: ChildProcess[] = []
  /** What must be found nowhere, and where it was looked for. */
  const canaries: string[] = []
  const seen: string[] = []
  let tokenOf: (claims: object) => Promise<string>
  let joinA: string
  let openJoin: string

  /** Runs `nsm` on a machine; whatever it says, and whatever can be seen of it meanwhile, is kept. */
  const run = async (machine: string, ...args: string[]) => {
    const running = rig.nsm(machine, ...args)
    const watch = setInterval(look, 40)
    const ended = await running.finally(() => clearInterval(watch))
    seen.push(ended.out, ended.err)
    return ended
  }

  /** Arguments and environment of every process that runs for this test. */
  const look = () => {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      const text = `${read(`/proc/${pid}/cmdline`)}\n${read(`/proc/${pid}/environ`)}`
      if (text.includes(rig.dir)) seen.push(text)
    }
  }

  const connect = (machine: string, ...more: string[]) =>
    run(machine, 'connect', service, '--name', machine, '--timeout', '60s', '--json', ...more)

  const spawnOn = (machine: string, ...command: string[]) => {
    const state = join(rig.dir, machine)
    const env = { ...process.env, NSM_STATE_DIR: state, NSM_RUNTIME_DIR: join(state, 'run'), NSM_LOG_LEVEL: 'debug' }
    const child = spawn('ip', ['netns', 'exec', `${rig.prefix}-${machine}`, ...command], { env, stdio: 'pipe' })
    children.push(child)
    return child
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmb5', ['s', 'a', 'b'])
    const issuer = spawnOn('s', process.execPath, join(import.meta.dirname, '../support/issuer-program.ts'))
    const answers = createInterface({ input: issuer.stdout })[Symbol.asyncIterator]()
    const url = String((await answers.next()).value)
    tokenOf = async (claims) => {
      const aud = `nsm://${/td=([\w.-]+)/.exec(openJoin)?.[1]}`
      issuer.stdin.write(`${JSON.stringify({ aud, ...claims })}\n`)
      const token = String((await answers.next()).value)
      canaries.push(...token.split('.'))
      return token
    }
    const flags = ['--verbose', '--issuer', url, '--allow', 'repository_id=5678']
    const server = spawnOn('s', nsmProgram, 'serve', ...flags)
    server.stderr.on('data', (part) => void seen.push(String(part)))
    let said = ''
    for await (const part of server.stdout) {
      said += String(part)
      if (/^# nsm:\S+\n/m.test(said)) break
    }
    joinA = /^nsm:\S+/m.exec(said)?.[0] ?? ''
    openJoin = /^# (nsm:\S+)/m.exec(said)?.[1] ?? ''
    canaries.push(/jt=([\w-]+)/.exec(joinA)?.[1] ?? 'no token')
  })

  afterAll(async () => {
    for (const child of children) {
      child.kill('SIGTERM')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    }
    await rig.close()
  })

  test('a machine joins, a CI job shows its token, strangers are refused', async () => {
    const fileA = await rig.file('join-a', joinA)
    const a = await connect('a', '--join', fileA)
    expect(a.code, a.err).toBe(0)
    const open = await rig.file('open', openJoin)
    const bad = await rig.file('bad', await tokenOf({ repository_id: '5678', aud: 'nsm://other' }))
    expect((await connect('b', '--join', open, '--token-file', bad)).code).toBe(4)
    expect((await connect('b', '--join', fileA)).out).toContain('TOKEN_REUSED')
    const good = await rig.file('good', await tokenOf({ repository_id: '5678', note: 'canary-claim-of-the-job' }))
    const b = await connect('b', '--join', open, '--token-file', good)
    expect(b.code, b.err).toBe(0)
    canaries.push('canary-claim-of-the-job')
    expect(await rig.pings('a', nameOf('b'))).toBe(true)
  })

  test('one record ties the identity to service, connection, addresses and WireGuard key, on both sides alike', async () => {
    await expect.poll(() => eventsOf('s', 'serve-audit.jsonl', 'conn.up')).toHaveLength(2)
    await expect.poll(() => eventsOf('a', 'audit.jsonl', 'conn.up')).toHaveLength(1)
    const [own] = await eventsOf('a', 'audit.jsonl', 'conn.up')
    const ups = await eventsOf('s', 'serve-audit.jsonl', 'conn.up')
    const theirs = ups.find(({ id }) => id === own?.['id'])
    const keys = ['id', 'service', 'address', 'publicKey'] as const
    expect(keys.map((key) => theirs?.[key])).toEqual(keys.map((key) => own?.[key]))
    expect(theirs).toMatchObject({ service, publicKey: expect.stringMatching(/^[\w+/]{43}=$/) })
    const status = JSON.parse((await run('a', 'status', '--json')).out)
    expect(String(theirs?.['address']).split(' ')).toEqual(status.connections[0].addresses)
    expect(theirs?.['id']).toBe(status.identity.spiffeId)
    const issued = await eventsOf('s', 'serve-audit.jsonl', 'exchange.ok')
    expect(issued).toContainEqual(
      expect.objectContaining({ id: theirs?.['id'], rule: 'join-token', address: '192.0.2.2' }),
    )
    expect(issued).toContainEqual(expect.objectContaining({ rule: 'allow-1', issuer: 'issuer', address: '192.0.2.3' }))
  })

  test('each refusal is on record with its reason, at the server and at the machine', async () => {
    const reasonsOf = async (...where: Parameters<typeof eventsOf>) =>
      (await eventsOf(...where)).map(({ reason }) => reason)
    const reasons = ['TOKEN_AUDIENCE', 'TOKEN_REUSED']
    await expect.poll(() => reasonsOf('s', 'serve-audit.jsonl', 'exchange.deny')).toEqual(reasons)
    await expect.poll(() => reasonsOf('b', 'audit.jsonl', 'login.fail')).toEqual(reasons)
  })

  test('a disconnect is on record on both sides, and every log is whole', async () => {
    for (const machine of ['a', 'b']) expect((await run(machine, 'disconnect')).code).toBe(0)
    await expect.poll(() => eventsOf('s', 'serve-audit.jsonl', 'conn.down')).toHaveLength(2)
    await expect.poll(() => eventsOf('a', 'audit.jsonl', 'conn.down')).toHaveLength(1)
    for (const machine of ['s', 'a', 'b']) {
      const { code, out } = await run(machine, 'audit', '--verify', '--json')
      expect([code, JSON.parse(out).logs[0].problem]).toEqual([0, undefined])
      expect((await run(machine, 'audit')).out).toContain('spiffe://')
    }
  })

  test('signals that make other programs write their memory to a file make none', async () => {
    for (const pid of await daemons()) for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.kill(pid, signal)
    const files = readdirSync(rig.dir, { recursive: true, encoding: 'utf8' })
    expect(files.filter((name) => /report\.|heapsnapshot|(^|\/)core/i.test(name))).toEqual([])
  })

  test('no token that was shown is in an output, a log, a file, an argument or an environment', () => {
    look()
    const given = ['join-a', 'open', 'bad', 'good']
    for (const file of readdirSync(rig.dir, { recursive: true, withFileTypes: true })) {
      if (file.isFile() && !given.includes(file.name)) seen.push(read(join(file.parentPath, file.name)))
    }
    const all = seen.join('\n')
    expect(all).toContain('identity issued for an ID token')
    expect(all).toContain(rig.dir)
    expect(canaries.length).toBeGreaterThanOrEqual(8)
    // The header of a token is the same for all of its issuer and says nothing.
    for (const canary of canaries.filter((text) => !isHeader(text))) expect(all.includes(canary), canary).toBe(false)
  })

  async function eventsOf(machine: string, log: string, name: string): Promise<ReadEvent[]> {
    const events = await lastEvents([join(rig.dir, machine, log)], 1_000)
    return events.filter(({ event }) => event === name)
  }

  async function daemons(): Promise<number[]> {
    const pids = await Promise.all(['a', 'b'].map((machine) => rig.daemonPid(machine)))
    return pids.filter((pid) => pid !== undefined)
  }
})

function isHeader(part: string): boolean {
  return Buffer.from(part, 'base64url').toString().startsWith('{"alg"')
}

/** The text of a file; of one that is gone or not ours to read, nothing. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
