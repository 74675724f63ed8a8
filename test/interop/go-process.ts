import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as setTimeoutAsync } from 'node:timers/promises'

/** One running Go program. Its standard input is ours: should this process die, it ends by itself. */
export interface GoProcess {
  /** What it printed before "ready". */
  readonly lines: readonly string[]
  /** Asks it to end and waits; gives its exit code. */
  stop(): Promise<number | null>
}

/** What a Go program is started with. */
export interface GoCommand {
  readonly path: string
  readonly role: string
  /** `SPIFFE_ENDPOINT_SOCKET`. */
  readonly socket?: string
  readonly flags?: Readonly<Record<string, string | number>>
}

/** A program that prints no "ready" in this time hangs. */
const readyTimeoutMs = 150_000

/** Starts the program and resolves when it says "ready"; rejects with its last words when it ends before. */
export async function startGo(command: GoCommand): Promise<GoProcess> {
  const child = launch(command)
  const exited = once(child, 'exit').then(([code]) => Number(code))
  const lines: string[] = []
  const words = lastWordsOf(child)
  const reader = createInterface({ input: child.stdout })
  const isReady = new Promise<boolean>((resolve) => {
    reader.on('line', (line) => (line === 'ready' ? resolve(true) : lines.push(line)))
    child.once('exit', () => resolve(false))
  })
  const watchdog = setTimeout(() => child.kill('SIGKILL'), readyTimeoutMs)
  const ready = await isReady.finally(() => clearTimeout(watchdog))
  if (!ready) throw new Error(`${command.role} ended before it was ready: ${words()}`)
  return {
    lines,
    async stop() {
      child.kill('SIGTERM')
      return exited
    },
  }
}

/** Starts any program and resolves when `check` succeeds; rejects with its last words when it ends before. */
export async function startProgram(path: string, args: readonly string[], check: () => Promise<unknown>) {
  const child = spawn(path, [...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  const exited = once(child, 'exit').then(([code]) => Number(code))
  const words = lastWordsOf(child)
  const isHealthy = async () => {
    while (child.exitCode === null) {
      if (await succeeds(check())) return
      await setTimeoutAsync(checkPauseMs)
    }
    throw new Error(`${path} ended before it was ready: ${words()}`)
  }
  await isHealthy()
  return {
    async stop() {
      child.kill('SIGTERM')
      return exited
    },
  }
}

/** Between two looks at a program that starts. */
const checkPauseMs = 100

/** Runs a program to its end and gives what it printed; rejects with its last words when it fails. */
export async function runGo(command: GoCommand): Promise<readonly string[]> {
  const child = launch(command)
  const words = lastWordsOf(child)
  const chunks: Buffer[] = []
  child.stdout.on('data', (chunk) => chunks.push(chunk))
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`${command.role} failed: ${words()}`)
  return Buffer.concat(chunks).toString().split('\n').filter(Boolean)
}

function succeeds(outcome: Promise<unknown>): Promise<boolean> {
  return outcome.then(
    () => true,
    () => false,
  )
}

function launch({ path, role, socket, flags = {} }: GoCommand) {
  const args = Object.entries(flags).map(([name, value]) => `-${name}=${value}`)
  const env = socket === undefined ? {} : { SPIFFE_ENDPOINT_SOCKET: socket }
  return spawn(path, [role, ...args], { stdio: ['pipe', 'pipe', 'pipe'], env })
}

function lastWordsOf(child: ChildProcess): () => string {
  let text = ''
  child.stderr?.on('data', (chunk) => {
    text = `${text}${chunk}`.slice(-2_000)
  })
  return () => text.trim()
}
