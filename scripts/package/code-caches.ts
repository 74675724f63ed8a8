import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { ownTarget, type Target } from './target.ts'

/** How the Node of `target` is run on this machine, as words; undefined where it cannot be. */
export function runnerOf(target: Target, node: string): readonly string[] | undefined {
  if (target.name === ownTarget().name) return [node]
  if (target.name !== 'linux-arm64') return undefined
  // QEMU's user emulation, with the libraries of Debian's cross compilers.
  const words = ['qemu-aarch64-static', '-L', '/usr/aarch64-linux-gnu', node] as const
  const [emulator, ...rest] = words
  return spawnSync(emulator, [...rest, '--version']).status === 0 ? words : undefined
}

/**
 * Writes beside each chunk in `dir` what V8 compiles of it, and says why there is none where there is none: the file then
 * starts slower and does the same. It runs in namespaces of its own: interface, routes and names of the build stay there,
 * and no service of this machine is asked.
 */
export function writeCodeCaches(dir: string, target: Target, { node, nodeFlags }: WarmNode): void {
  const runner = runnerOf(target, node)
  if (runner === undefined) {
    complain(target, `its Node does not run on ${ownTarget().name}`)
    return
  }
  const unshare = ['--user', '--map-root-user', '--net', '--mount', '--pid', '--fork', '--kill-child']
  const ownFolders = 'for dir in /run /etc; do mount -t tmpfs none $dir || exit; done; mount -t proc none /proc'
  const prepare = `${ownFolders} && echo nameserver 127.0.0.1 > /etc/resolv.conf && ip link set lo up && exec "$@"`
  const words = [process.execPath, join(import.meta.dirname, 'warm.ts'), dir, ...nodeFlags]
  const { status, stderr } = spawnSync('unshare', [...unshare, 'sh', '-c', prepare, 'sh', ...words], {
    encoding: 'utf8',
    env: { ...process.env, NSM_WARM_NODE: runner.join(' ') },
  })
  if (status !== 0) complain(target, stderr ?? 'there is no unshare')
}

/** The Node that compiles, and the flags that it will have: V8 takes caches of its own flags only. */
interface WarmNode {
  readonly node: string
  readonly nodeFlags: readonly string[]
}

function complain({ name }: Target, why: string): void {
  process.stderr.write(`no code caches for ${name}: ${why.trimEnd()}\n`)
}
