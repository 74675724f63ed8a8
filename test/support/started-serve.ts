import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'

/** An `nsm serve` that can be joined. */
export interface StartedServe {
  readonly child: ChildProcess
  readonly pid: number
  /** What it printed, its join string among it. */
  readonly out: string
  /** What it has said on standard error so far. */
  err(): string
}

/** Starts a server and waits until it prints that it can be joined; fails with its last words when it ends before. */
export async function startedServe(
  command: string,
  words: readonly string[],
  options: Pick<SpawnOptions, 'cwd' | 'env'>,
): Promise<StartedServe> {
  const child = spawn(command, [...words], { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let [out, err] = ['', '']
  child.stderr.on('data', (part) => {
    err += part
  })
  for await (const part of child.stdout.iterator({ destroyOnReturn: false })) {
    out += part
    if (out.includes('nsm://') && out.endsWith('\n')) break
  }
  if (child.pid === undefined || !out.includes('nsm://')) throw new TypeError(`${command} does not serve: ${err}`)
  return { child, pid: child.pid, out, err: () => err }
}

/** A server on loopback and ports of its own. */
export const onLoopback = ['serve', '--listen', '127.0.0.1:0', '--wireguard-port', '0', '--advertise', '127.0.0.1']
