import { execFile } from 'node:child_process'
import { NsmError } from './errors.ts'

/** Runs a program with an argument array (never a shell) and gives its standard output. */
export type Run = (program: string, args: readonly string[], options?: RunOptions) => Promise<string>

/** Input and limits of one run. */
export interface RunOptions {
  readonly input?: string
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

/** Ours: no helper program of the machine takes longer than this. */
const runTimeoutMs = 5_000
/** Ours: output beyond this is a failure, not memory. */
const outputMaxBytes = 4 * 1024 * 1024

/** Runs programs of this machine with a small, fixed environment; a failure is `BUG` with what the program said. */
export const runProgram: Run = (program, args, options = {}) =>
  new Promise((resolve, reject) => {
    const child = execFile(
      program,
      [...args],
      {
        encoding: 'utf8',
        timeout: options.timeoutMs ?? runTimeoutMs,
        maxBuffer: outputMaxBytes,
        env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
        ...(options.signal ? { signal: options.signal } : {}),
      },
      (error, stdout, stderr) => {
        if (!error) return resolve(stdout)
        const said = stderr.trim() || error.message
        const next = 'code' in error && error.code === 'ENOENT' ? `install ${program}` : 'see the message above'
        reject(new NsmError('BUG', `${program} ${args.join(' ')}: ${said}`, next, { cause: error }))
      },
    )
    // A program that ends without reading its input is judged by its exit code.
    child.stdin?.on('error', () => {})
    child.stdin?.end(options.input ?? '')
  })
