import { access, copyFile, mkdir, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join, resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { execute } from '../demo/lab.ts'

const cacheDir = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-bench')
/** Ours: the first build downloads and compiles. */
const buildTimeoutMs = 600_000

/** A userspace WireGuard to measure against; it takes the interface's name as its last argument. */
export interface WireguardProgram {
  readonly name: string
  readonly path: string
  readonly version: string
  readonly args: readonly string[]
}

/** Why a program is absent. */
export interface MissingProgram {
  readonly missing: string
}

/** Builds the newest wireguard-go with the Go toolchain of the machine; what was built before serves without a network. */
export async function buildWireguardGo(): Promise<WireguardProgram | MissingProgram> {
  await mkdir(cacheDir, { recursive: true })
  const path = join(cacheDir, 'wireguard')
  const built = await execute('go', ['install', 'golang.zx2c4.com/wireguard@latest'], {
    timeoutMs: buildTimeoutMs,
    environment: { ...process.env, GOBIN: cacheDir },
  })
  if (!(await exists(path))) return missing('wireguard-go', built.err, 'apt-get install golang')
  const facts = await execute('go', ['version', '-m', path])
  const version = /mod\s+\S+\s+(\S+)/.exec(facts.out)?.[1] ?? 'unknown'
  return { name: 'wireguard-go', path, version, args: ['-f'] }
}

/** The Rust programs: package, program in it, arguments that keep it in the foreground. */
const rustPrograms = [
  { package: 'gotatun-cli', program: 'gotatun', args: ['-f', '--disable-drop-privileges'] },
  { package: 'boringtun-cli', program: 'boringtun-cli', args: ['-f', '--disable-drop-privileges'] },
] as const

/** Builds the Rust programs once; a build that failed says why. */
export async function buildRustPrograms(): Promise<readonly (WireguardProgram | MissingProgram)[]> {
  const all: (WireguardProgram | MissingProgram)[] = []
  for (const { package: name, program, args } of rustPrograms) {
    const path = join(cacheDir, 'bin', program)
    if (!(await exists(path))) {
      const install = ['install', '--locked', '--root', cacheDir, name]
      const built = await execute('cargo', install, { timeoutMs: buildTimeoutMs })
      if (!(await exists(path))) {
        all.push(missing(name, built.err, 'install Rust from https://rustup.rs'))
        continue
      }
    }
    const { out } = await execute(path, ['--version'])
    all.push({ name, path, version: out.trim().replace(/^\S+\s+/, ''), args })
  }
  return all
}

/** Builds a sender of wireguard-go's userspace TCP/IP stack, of the version that is measured. */
export async function buildNetstackSender(version: string): Promise<{ readonly path: string } | MissingProgram> {
  const folder = join(cacheDir, 'netstack-send')
  const path = join(cacheDir, `netstack-send-${version}`)
  if (await exists(path)) return { path }
  await mkdir(folder, { recursive: true })
  await copyFile(resolve(import.meta.dirname, 'netstack-send.go'), join(folder, 'main.go'))
  await rm(join(folder, 'go.mod'), { force: true })
  const steps = [
    ['mod', 'init', 'netstack-send'],
    ['get', `golang.zx2c4.com/wireguard@${version}`, `golang.zx2c4.com/wireguard/tun/netstack@${version}`],
    ['mod', 'tidy'],
    ['build', '-o', path],
  ]
  let said = ''
  for (const args of steps) {
    const done = await execute('go', ['-C', folder, ...args], { timeoutMs: buildTimeoutMs })
    if (done.exitCode !== 0) said = done.err
  }
  return (await exists(path)) ? { path } : missing('netstack-send', said, 'apt-get install golang')
}

function missing(name: string, said: string, next: string): MissingProgram {
  return { missing: `${name} could not be built (${next}): ${said.trim().slice(-200)}` }
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

const socketPath = (name: string) => `/var/run/wireguard/${name}.sock`
/** Ours: tries of 50 ms for the control socket. */
const socketTries = 100

/** Resolves when the program of this interface takes settings. */
export async function waitForSocket(name: string): Promise<void> {
  for (let tries = 0; tries < socketTries; tries++) {
    if (await answers(socketPath(name))) return
    await new Promise((settle) => setTimeout(settle, 50))
  }
  throw new NsmError('NOT_READY', `the WireGuard program made no socket for ${name}`, '')
}

/** A socket file that a killed run left behind refuses. */
function answers(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const socket = createConnection(path, () => {
      socket.end()
      settle(true)
    })
    socket.on('error', () => settle(false))
  })
}

/** Speaks the cross-platform configuration protocol of WireGuard: `set=1`, lines, an empty line. */
export function configureProgram(name: string, lines: readonly string[]): Promise<void> {
  return new Promise((settle, reject) => {
    const socket = createConnection(socketPath(name))
    let answer = ''
    socket.on('error', reject)
    socket.on('data', (part) => {
      answer += part
      if (!answer.includes('errno=')) return
      socket.end()
      if (answer.includes('errno=0')) settle()
      else reject(new NsmError('BUG', `${name} refused its settings: ${answer.trim()}`, ''))
    })
    socket.write(`set=1\n${lines.join('\n')}\n\n`)
  })
}
