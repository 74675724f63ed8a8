import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'

/** Ours: below the ports that systems give out by themselves (Linux: from 32,768), which any program may get meanwhile. */
const firstPort = 20_000
const endPort = 32_768

/** A port that nobody has by TCP or UDP, and that no other caller on this machine gets while this process lives. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(firstPort, endPort)
    if ((await claim(port)) && (await isTcpFree(port)) && (await isUdpFree(port))) return port
  }
}

/** Holds a name that only one socket of a network can have; Linux has names without files, which end with their process. */
async function claim(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return true
  const server = createServer().listen(`\0nsm-test-port-${port}`)
  server.unref()
  return succeeds(once(server, 'listening'))
}

async function isTcpFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1')
  const isFree = await succeeds(once(server, 'listening'))
  if (isFree) await once(server.close(), 'close')
  return isFree
}

async function isUdpFree(port: number): Promise<boolean> {
  const socket = createSocket('udp4').bind(port)
  const isFree = await succeeds(once(socket, 'listening'))
  await once(socket.close(), 'close')
  return isFree
}

function succeeds(outcome: Promise<unknown>): Promise<boolean> {
  return outcome.then(
    () => true,
    () => false,
  )
}
