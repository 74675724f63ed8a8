import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const execute = promisify(execFile)
const namespace = `nsmd${process.pid}`
const etc = `/etc/netns/${namespace}`
const original = '# of this namespace\nnameserver 127.0.0.2\nsearch lan.example\noptions timeout:30 attempts:1\n'
const isRoot = process.getuid?.() === 0
const hasIp = await execute('ip', ['netns', 'list']).then(
  () => true,
  () => false,
)
const able = isRoot && hasIp
const children: ChildProcess[] = []

describe.skipIf(!able)(
  `netns: the system resolver through our file${able ? '' : ' (skipped, needs root and ip)'}`,
  () => {
    const state = join(tmpdir(), `${namespace}-state`)

    beforeAll(async () => {
      await execute('ip', ['netns', 'add', namespace])
      await inside('ip', ['link', 'set', 'lo', 'up'])
      // glibc asks for A records only when some interface beside lo has an IPv4 address (AI_ADDRCONFIG).
      await inside('ip', ['link', 'add', 'd0', 'type', 'veth', 'peer', 'name', 'd1'])
      await inside('ip', ['address', 'add', '198.18.8.1/24', 'dev', 'd0'])
      await inside('ip', ['link', 'set', 'd0', 'up'])
      await mkdir(etc, { recursive: true })
      await mkdir(state, { recursive: true, mode: 0o700 })
      await writeFile(join(etc, 'resolv.conf'), original)
      await startChild('upstreams')
    })

    afterAll(async () => {
      for (const child of children) await kill(child)
      await execute('ip', ['netns', 'delete', namespace])
      for (const path of [etc, state]) await rm(path, { recursive: true, force: true })
    })

    test('getaddrinfo asks the service for its names and the host resolver for all others, and finds short names', async () => {
      const child = await startChild('resolver')
      expect(await lookUp('db.svc.test')).toBe('10.64.0.2')
      expect(await lookUp('db')).toBe('10.64.0.2')
      expect(await lookUp('www.example')).toBe('192.0.2.80')
      expect(await lookUp('no.svc.test')).toBe('')
      child.kill('SIGTERM')
      await once(child, 'exit')
      expect(await readFile(join(etc, 'resolv.conf'), 'utf8')).toBe(original)
    })

    test('after SIGKILL the repair brings the file back byte for byte, and names work the old way', async () => {
      const child = await startChild('resolver')
      expect(await readFile(join(etc, 'resolv.conf'), 'utf8')).toContain('nameserver 127.0.0.55')
      await kill(child)
      expect(await lookUp('www.example')).toBe('')
      const { stdout } = await inside(process.execPath, [fixture, 'repair', state])
      expect(stdout).toBe('restored\n')
      expect(await readFile(join(etc, 'resolv.conf'), 'utf8')).toBe(original)
      expect(await lookUp('www.example')).toBe('192.0.2.80')
    })

    test('the listener cannot be asked from another namespace', async () => {
      await startChild('resolver')
      const peer = `${namespace}b`
      await execute('ip', ['netns', 'add', peer])
      try {
        await execute('ip', [
          'link',
          'add',
          `${namespace}v`,
          'netns',
          namespace,
          'type',
          'veth',
          'peer',
          'name',
          'v0',
          'netns',
          peer,
        ])
        await inside('ip', ['address', 'add', '198.18.9.1/24', 'dev', `${namespace}v`])
        await inside('ip', ['link', 'set', `${namespace}v`, 'up'])
        for (const args of [
          ['address', 'add', '198.18.9.2/24', 'dev', 'v0'],
          ['link', 'set', 'v0', 'up'],
        ]) {
          await execute('ip', ['-n', peer, ...args])
        }
        const ask = (address: string) =>
          execute('ip', ['netns', 'exec', peer, process.execPath, fixture, 'ask', address])
        expect((await ask('198.18.9.1')).stdout).toBe('closed\n')
      } finally {
        await execute('ip', ['netns', 'delete', peer])
      }
    })

    async function startChild(role: string): Promise<ChildProcess> {
      const child = spawn('ip', ['netns', 'exec', namespace, process.execPath, fixture, role, state], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      children.push(child)
      await once(child.stdout, 'data')
      return child
    }
  },
)

const fixture = resolve(import.meta.dirname, '../support/dns-fixture.ts')

function inside(program: string, args: readonly string[]): Promise<{ stdout: string }> {
  return execute('ip', ['netns', 'exec', namespace, program, ...args])
}

/** glibc's answer, '' when there is none. */
async function lookUp(name: string): Promise<string> {
  const { stdout } = await inside('getent', ['ahostsv4', name]).catch(() => ({ stdout: '' }))
  return stdout.split(/\s+/)[0] ?? ''
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}
