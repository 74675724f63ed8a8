import childProcess from 'node:child_process'
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'

type AnyFunction = (...args: unknown[]) => unknown

/** What changes the machine, of the functions of node:fs/promises; `open` counts as one, whatever for. */
const changing = ['rename', 'rm', 'symlink', 'chmod', 'chown', 'open']

/**
 * From here on every function that changes the machine is a step, and the process kills itself before the step `dieAt`. A
 * write into a file that is there is two steps: before it, and when half of it is done; so is a program: before it, and when
 * it has just been started. Gives the steps so far.
 */
export function countSteps(dieAt: number): () => number {
  let steps = 0
  const pass = () => {
    if (++steps === dieAt) process.kill(process.pid, 'SIGKILL')
  }
  for (const name of changing) count(fs, name, pass)
  count(childProcess, 'execFile', pass, pass)
  const open: (...args: Parameters<typeof fs.open>) => Promise<object> = Reflect.get(fs, 'open')
  let isPatched = false
  Reflect.set(fs, 'open', async (...args: Parameters<typeof fs.open>) => {
    const handle = await open(...args)
    if (!isPatched) patchHandle(Reflect.getPrototypeOf(handle) ?? handle, pass)
    isPatched = true
    return handle
  })
  syncBuiltinESMExports()
  return () => steps
}

function patchHandle(handle: object, pass: () => void): void {
  for (const name of ['writeFile', 'truncate']) count(handle, name, pass)
  const write: AnyFunction = Reflect.get(handle, 'write')
  Reflect.set(handle, 'write', async function (this: object, content: Uint8Array, ...rest: unknown[]) {
    pass()
    await Reflect.apply(write, this, [content, 0, content.length >> 1, 0])
    pass()
    return Reflect.apply(write, this, [content, ...rest])
  })
}

function count(holder: object, name: string, before: () => void, after = () => {}): void {
  const real: AnyFunction = Reflect.get(holder, name)
  Reflect.set(holder, name, function (this: unknown, ...args: unknown[]) {
    before()
    const result = Reflect.apply(real, this, args)
    after()
    return result
  })
}
