import type { ChildProcess } from 'node:child_process'
import { NsmError } from '../../src/base/errors.ts'

/** Ours: a server that says nothing for this long has failed. */
const startTimeoutMs = 20_000

/** The output of a program up to the line that holds `mark`; throws `NOT_READY` when it ends or stays silent. */
export function firstLines(child: ChildProcess, mark: string): Promise<string> {
  return new Promise((settle, reject) => {
    let out = ''
    let err = ''
    const fail = (why: string) => {
      clearTimeout(timer)
      reject(new NsmError('NOT_READY', `${why}${err === '' ? '' : `: ${err.trim()}`}`, ''))
    }
    const timer = setTimeout(() => fail(`no "${mark}" in ${startTimeoutMs} ms`), startTimeoutMs)
    child.stderr?.on('data', (part) => {
      err += part
    })
    child.once('error', (error) => fail(error.message))
    child.once('close', (code) => fail(`ended with ${code}`))
    child.stdout?.on('data', (part) => {
      out += part
      const found = out.indexOf(mark)
      const end = found < 0 ? -1 : out.indexOf('\n', found)
      if (end < 0) return
      clearTimeout(timer)
      settle(out.slice(0, end + 1))
    })
  })
}
