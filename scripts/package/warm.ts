import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { commandTable } from '../../src/commands/command-table.ts'

/* `node warm.ts PARTS NODE-FLAG ...`: runs the commands on the parts in a folder, so that each chunk has beside it what V8
 * compiled of it. The last of them connect to a server on loopback: to be run in namespaces of its own. */
const [parts = '', ...nodeFlags] = process.argv.slice(2)
const lookAgainMs = 50
const scratch = mkdtempSync(join(tmpdir(), 'nsm-warm-'))
const program = writeProgram()
try {
  for (const { id } of commandTable) await run([...id.split(' '), '--help'])
  await run(['no-such-command'])
  await run(['version', '--json'])
  await runNetwork()
} finally {
  for (const path of [scratch, program, join(parts, 'warm.cjs')]) rmSync(path, { recursive: true })
}

/** The stand-in for the executable, as a program that the background process can be started with. */
function writeProgram(): string {
  copyFileSync(join(import.meta.dirname, 'warm.cjs'), join(parts, 'warm.cjs'))
  const node = process.env['NSM_WARM_NODE']?.split(' ') ?? [process.execPath]
  const words = [...node, ...nodeFlags, join(parts, 'warm.cjs'), parts].map((word) => `'${word}'`)
  writeFileSync(join(parts, 'nsm'), `#!/bin/sh\nexec ${words.join(' ')} "$@"\n`, { mode: 0o755 })
  return join(parts, 'nsm')
}

/** A server, and the background process connected to it: the paths of the wire, of the store, of the tunnel. */
async function runNetwork(): Promise<void> {
  const listen = ['--listen', '127.0.0.1:0', '--wireguard-port', '0', '--advertise', '127.0.0.1']
  const { child, out } = await run(['serve', ...listen], 'nsm://')
  const joinFile = join(scratch, 'join.txt')
  writeFileSync(joinFile, out)
  await run(['invite'])
  // The server knows no issuer: a login ends with its answer.
  await run(['login', '--join', joinFile, '--method', 'device'])
  await run(['connect', '--join', joinFile, 'my-networkservice-1', '--timeout', '10s'])
  for (const words of ['status', 'status --json', 'list', 'dns status', 'disconnect --all']) await run(words.split(' '))
  await stopBackground()
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  await ended
}

/** It writes what it has at its end. */
async function stopBackground(): Promise<void> {
  const { out } = await run(['version', '--json'])
  const pid: unknown = JSON.parse(out).daemon?.pid
  if (typeof pid !== 'number') return
  process.kill(pid, 'SIGTERM')
  while (existsSync(`/proc/${pid}`)) await setTimeout(lookAgainMs)
}

/** Runs the program to its end, or until the words stand on its output. */
async function run(args: readonly string[], until?: string): Promise<{ child: ChildProcess; out: string }> {
  const child = spawn(program, [...args], { env: environment(), stdio: ['ignore', 'pipe', 'ignore'] })
  let out = ''
  for await (const part of child.stdout) {
    out += part
    if (until !== undefined && out.includes(until) && out.endsWith('\n')) break
  }
  return { child, out }
}

function environment(): NodeJS.ProcessEnv {
  mkdirSync(join(scratch, 'state'), { recursive: true, mode: 0o700 })
  return {
    PATH: process.env['PATH'],
    HOME: scratch,
    NSM_STATE_DIR: join(scratch, 'state'),
    NSM_RUNTIME_DIR: join(scratch, 'run'),
  }
}
