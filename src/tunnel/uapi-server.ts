import { lstat, rm } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import { listenPrivately } from '../base/listen-privately.ts'
import { createTurns } from '../base/turns.ts'
import type { UapiDevice } from './device-control.ts'
import { errno } from './sys/errno.ts'

/** [WireGuard xplatform] Where wg(8) looks for the sockets of interfaces that the kernel does not have. */
export const uapiDir = '/var/run/wireguard'

/** Ours: 4,096 peers with three prefixes each need some 2 MiB. */
const requestMaxCharacters = 4 * 1024 * 1024
/** Ours: callers at the same time. */
const callersMax = 16
/** Ours: wg(8) says what it wants at once. */
const silenceMaxMs = 5_000

/** A listening control socket. */
export interface UapiServer {
  readonly path: string
  /** Ends every caller and removes the socket. */
  close(): Promise<void>
}

/**
 * Serves WireGuard's cross-platform control protocol for one interface, so that wg(8) works with it; only this user may open
 * the socket. Throws `CONFLICT` when another program serves this name, `PERMISSION` when the folder is not only ours.
 */
export async function openUapi(interfaceName: string, device: UapiDevice, dir = uapiDir): Promise<UapiServer> {
  await makePrivateDir(dir, 0o755).catch((cause) => {
    throw cause instanceof NsmError ? cause : noFolder(dir, cause)
  })
  const path = join(dir, `${interfaceName}.sock`)
  if (await isServed(path)) {
    const next = `end it, or choose another name than ${interfaceName}`
    throw new NsmError('CONFLICT', `another program serves ${path}`, next)
  }
  const callers = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    if (callers.size >= callersMax) return void socket.destroy()
    callers.add(socket)
    socket.on('close', () => callers.delete(socket))
    serve(socket, device)
  })
  const stop = await listenPrivately(server, path)
  return {
    path,
    async close() {
      const stopped = stop()
      for (const socket of callers) socket.destroy()
      await stopped
    },
  }
}

/**
 * Removes the socket that a killed process of ours left for this interface, and gives its path; undefined when there is
 * none, or another program answers there by now.
 */
export async function removeLeftSocket(interfaceName: string, dir = uapiDir): Promise<string | undefined> {
  const path = join(dir, `${interfaceName}.sock`)
  const found = interfaceName.includes('/') ? undefined : await lstat(path).catch(() => undefined)
  if (!found?.isSocket() || found.uid !== process.getuid?.() || (await isServed(path))) return undefined
  await rm(path, { force: true })
  return path
}

function noFolder(dir: string, cause: unknown): NsmError {
  return new NsmError('PERMISSION', `${dir} cannot be made`, 'run it as root', { cause })
}

/** A file that a killed program left behind answers nobody. */
function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path, () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

/** Requests of one caller, one after the other: each ends with an empty line. */
function serve(socket: Socket, device: UapiDevice): void {
  let text = ''
  const turns = createTurns()
  socket.setEncoding('utf8')
  socket.setTimeout(silenceMaxMs, () => socket.destroy())
  socket.on('error', () => {})
  socket.on('end', () => void turns.settled().then(() => socket.end()))
  socket.on('data', (chunk) => {
    text += String(chunk)
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const lines = text.slice(0, end).split('\n')
      text = text.slice(end + 2)
      void turns.run('', async () => {
        const answer = await answerTo(lines, device)
        if (socket.writable) socket.write(answer)
      })
    }
    if (text.length > requestMaxCharacters) socket.destroy()
  })
}

/** wg(8) wants error numbers below zero. */
async function answerTo([operation, ...lines]: readonly string[], device: UapiDevice): Promise<string> {
  try {
    if (operation === 'get=1' && lines.length === 0) return `${(await device.get()).join('\n')}\nerrno=0\n\n`
    const number = operation === 'set=1' ? await device.set(lines) : errno.EINVAL
    return `errno=${number === 0 ? 0 : -number}\n\n`
  } catch {
    return `errno=${-errno.EIO}\n\n`
  }
}
