import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { wireguardGo } from '../../netns/wireguard-peers.ts'

const found = wireguardGo.path ?? ''
const reason = whyNot()
const peerScript = fileURLToPath(new URL('./wireguard-go-peer.ts', import.meta.url))

test.skipIf(reason !== '').each([
  ['initiator', 'plain'],
  ['initiator', 'psk'],
  ['responder', 'plain'],
  ['responder', 'psk'],
])(
  `engine as %s (%s) exchanges packets of all sizes with wireguard-go, each padded as it pads them${reason}`,
  async (role, secret) => {
    const result = await besideWireGuardGo([role, secret])
    expect(JSON.parse(result)).toEqual({ echoed: 400, equal: 400, sent: 400, handshakes: 1 })
  },
)

/** Runs the peer script in a namespace of its own beside wireguard-go; gives what it printed. */
async function besideWireGuardGo(args: readonly string[]): Promise<string> {
  const name = `nsmw${process.pid}`
  const ip = (...words: string[]) => execFileSync('ip', words)
  const inside = ['netns', 'exec', name]
  ip('netns', 'add', name)
  let wireGuardGo: ChildProcess | undefined
  try {
    ip('-n', name, 'link', 'set', 'lo', 'up')
    const env = { ...process.env, WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD: '1', LOG_LEVEL: 'error' }
    wireGuardGo = spawn('ip', [...inside, found, '-f', name], { env, stdio: 'ignore' })
    const socket = `/var/run/wireguard/${name}.sock`
    await expect.poll(() => existsSync(socket)).toBe(true)
    ip('-n', name, 'address', 'add', '10.77.0.1/24', 'dev', name)
    ip('-n', name, 'link', 'set', name, 'up', 'mtu', '1420')
    const peer = [...inside, process.execPath, peerScript, socket, ...args]
    return execFileSync('ip', peer, { encoding: 'utf8', timeout: 150_000 })
  } finally {
    wireGuardGo?.kill('SIGTERM')
    ip('netns', 'del', name)
  }
}

/** Why the test cannot run here, as an end of its name; empty when it can. */
function whyNot(): string {
  if (process.getuid?.() !== 0) return ' (skipped: needs root)'
  if (!existsSync('/dev/net/tun')) return ' (skipped: needs /dev/net/tun)'
  if (found === '') return ' (skipped: needs wireguard-go: npm run peers)'
  try {
    execFileSync('ip', ['netns', 'list'], { stdio: 'ignore' })
    return ''
  } catch {
    return ' (skipped: needs ip netns)'
  }
}
