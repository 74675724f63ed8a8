import { chmod, rm } from 'node:fs/promises'
import type { Server } from 'node:net'
import { NsmError } from './errors.ts'

/**
 * Listens on a unix socket that only this user may open, not even for a moment anybody else. A file of that name is removed:
 * the caller knows that nobody serves it. The result stops that: it resolves when every connection has ended and the socket
 * is gone. Throws `CONFLICT`.
 */
export async function listenPrivately(server: Server, path: string): Promise<() => Promise<void>> {
  await rm(path, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      reject(new NsmError('CONFLICT', `cannot listen on ${path}: ${cause.message}`, `remove ${path}`, { cause }))
    })
    // The socket is made before `listen` returns. Files that others write meanwhile keep what their owner needs.
    const before = process.umask(0o077)
    server.listen(path, resolve)
    process.umask(before)
  })
  await chmod(path, 0o600)
  return async () => {
    await new Promise<void>((resolve) => server.close(() => resolve()))
    await rm(path, { force: true })
  }
}
