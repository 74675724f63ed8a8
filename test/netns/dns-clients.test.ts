import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { killed } from '../support/local-process.ts'

/* Programs as they are, each with its own resolver library, ask `nsm dns serve` through the system's file. */

const execute = promisify(execFile)
const namespace = `nsmq${process.pid}`
const etc = `/etc/netns/${namespace}`
const scratch = join(tmpdir(), namespace)
const root = resolve(import.meta.dirname, '../..')
const fixture = join(root, 'test/support/dns-fixture.ts')
const has = (program: string) =>
  execute('sh', ['-c', `command -v ${program}`]).then(
    () => true,
    () => false,
  )
const able = process.getuid?.() === 0 && (await has('ip'))
const children: ChildProcess[] = []

/** Prints the first IPv4 address of a name, or the error of the library. */
const program = `
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>
int main(int count, char **words) {
  struct addrinfo hints, *found;
  memset(&hints, 0, sizeof hints);
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  int error = getaddrinfo(words[1], 0, &hints, &found);
  char text[64];
  if (error) { puts(error == EAI_NONAME ? "none" : error == EAI_AGAIN ? "again" : "other"); return 0; }
  puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
}
`

interface Client {
  readonly name: string
  readonly needs: string
  /** Gives an address, or what stands for none. */
  ask(host: string): Promise<string>
  /** True for a client that reads the search list. */
  readonly searches: boolean
}

const clients: readonly Client[] = [
  {
    name: 'glibc',
    needs: 'getent',
    searches: true,
    ask: async (host) => (await inside('getent', ['ahostsv4', host]).catch(() => 'none')).split(/\s/)[0] ?? '',
  },
  { name: 'musl, static', needs: 'musl-gcc', searches: true, ask: (host) => inside(join(scratch, 'musl'), [host]) },
  {
    name: 'dig',
    needs: 'dig',
    searches: false,
    ask: async (host) => (await inside('dig', ['+short', host])) || 'none',
  },
  {
    name: 'dig over TCP',
    needs: 'dig',
    searches: false,
    ask: async (host) => (await inside('dig', ['+short', '+tcp', host])) || 'none',
  },
  {
    name: 'kdig',
    needs: 'kdig',
    searches: false,
    ask: async (host) => (await inside('kdig', ['+short', host])) || 'none',
  },
  {
    name: 'c-ares in Node',
    needs: 'sh',
    searches: false,
    ask: (host) =>
      inside(process.execPath, [
        '-e',
        `require('dns').promises.resolve4('${host}').then((all) => console.log(all[0]), () => console.log('none'))`,
      ]),
  },
  { name: 'nsm dns query', needs: 'sh', searches: false, ask: askOurselves },
]
const present = new Map(await Promise.all(clients.map(async ({ needs }) => [needs, await has(needs)] as const)))

describe.skipIf(!able)(`netns: clients of nsm dns serve${able ? '' : ' (skipped, needs root and ip)'}`, () => {
  beforeAll(async () => {
    await execute('ip', ['netns', 'add', namespace])
    await inside('ip', ['link', 'set', 'lo', 'up'])
    // glibc asks for A records only when some interface beside lo has an IPv4 address (AI_ADDRCONFIG).
    await inside('ip', ['link', 'add', 'd0', 'type', 'veth', 'peer', 'name', 'd1'])
    await inside('ip', ['address', 'add', '198.18.8.1/24', 'dev', 'd0'])
    await inside('ip', ['link', 'set', 'd0', 'up'])
    for (const dir of [etc, scratch]) await mkdir(dir, { recursive: true })
    await writeFile(join(etc, 'resolv.conf'), 'nameserver 127.0.0.55\nsearch svc.test\noptions timeout:30 attempts:1\n')
    await start(process.execPath, [fixture, 'upstreams', scratch])
    const scopes = ['--scope', 'svc.test=127.0.0.3', '--default', '127.0.0.2']
    await start(nsmProgram, ['dns', 'serve', '--listen', '127.0.0.55:53', ...scopes])
    if (present.get('musl-gcc')) {
      await writeFile(join(scratch, 'musl.c'), program)
      await execute('musl-gcc', ['-static', '-o', join(scratch, 'musl'), join(scratch, 'musl.c')])
    }
  })

  afterAll(async () => {
    for (const child of children) await killed(child)
    await execute('ip', ['netns', 'delete', namespace])
    for (const path of [etc, scratch]) await rm(path, { recursive: true, force: true })
  })

  for (const client of clients) {
    const why = present.get(client.needs) ? '' : ` (skipped: no ${client.needs})`
    test.skipIf(why !== '')(`${client.name} gets the service's names, the host's, and a clear no${why}`, async () => {
      expect(await client.ask('db.svc.test')).toBe('10.64.0.2')
      expect(await client.ask('www.example')).toBe('192.0.2.80')
      expect(await client.ask('no.svc.test')).toBe('none')
      expect(await client.ask('localhost')).toMatch(/^127\.0\.0\.1$|^none$/)
      if (client.searches) expect(await client.ask('db')).toBe('10.64.0.2')
    })
  }

  async function start(command: string, args: readonly string[]): Promise<void> {
    const words = ['netns', 'exec', namespace, command, ...args]
    const child = spawn('ip', words, { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    await once(child.stdout, 'data')
  }
})

async function askOurselves(host: string): Promise<string> {
  const said = await inside(nsmProgram, ['dns', 'query', host, '--server', '127.0.0.55', '--json'])
  const { answers } = JSON.parse(said)
  return answers[0]?.data ?? 'none'
}

async function inside(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await execute('ip', ['netns', 'exec', namespace, command, ...args])
  return stdout.trim()
}
