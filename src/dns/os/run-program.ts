import { execFile } from 'node:child_process'
import { changeMark } from './running-programs.ts'

/** What a program of the system said; `ok` is false also when it is not there or took too long. */
export interface ProgramResult {
  readonly ok: boolean
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program of the system, with nothing on its standard input; never throws. */
export type Run = (program: string, args: readonly string[]) => Promise<ProgramResult>

/** Ours: a program that asks a person, or a service that hangs, is given up after this time. */
const programTimeoutMs = 5_000
/** Ours: not the caller's search path, which may name folders of others. */
const programFolders = '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin'

/** Runs a program of this machine, with the words of its messages in English. */
export const runProgram: Run = (program, args) =>
  new Promise((resolve) => {
    const env = { PATH: programFolders, LC_ALL: 'C', [changeMark]: String(process.pid) }
    const child = execFile(program, [...args], { env, timeout: programTimeoutMs, cwd: '/' }, (error, stdout, stderr) =>
      resolve({ ok: error === null, stdout, stderr: stderr || (error?.message ?? '') }),
    )
    child.stdin?.on('error', () => {})
    child.stdin?.end()
  })
