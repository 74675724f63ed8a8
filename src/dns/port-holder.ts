import { readdir, readFile, readlink } from 'node:fs/promises'

/** The program that holds a UDP or TCP port of this machine, like `dnsmasq (pid 812)`; undefined when it cannot be known. */
export async function portHolder(port: number): Promise<string | undefined> {
  const inodes = new Set<string>()
  for (const table of ['udp', 'udp6', 'tcp', 'tcp6']) {
    const lines = (await readText(`/proc/net/${table}`)).split('\n').slice(1)
    for (const inode of inodesOf(lines, port)) inodes.add(inode)
  }
  if (inodes.size === 0) return undefined
  const processes = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name))
  for (const pid of processes) {
    if (await holdsAny(pid, inodes)) return `${(await readText(`/proc/${pid}/comm`)).trim()} (pid ${pid})`
  }
  return undefined
}

/** Column 2 is the local address with the port in hex, column 10 the socket's inode. [proc_net_tcp(5)] */
function inodesOf(lines: readonly string[], port: number): string[] {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const rows = lines.map((line) => line.trim().split(/\s+/))
  return rows.filter((row) => row[1]?.endsWith(suffix)).flatMap((row) => (row[9] ? [row[9]] : []))
}

async function holdsAny(pid: string, inodes: ReadonlySet<string>): Promise<boolean> {
  const open = await readdir(`/proc/${pid}/fd`).catch(() => [])
  for (const fd of open) {
    const link = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')
    const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1]
    if (inode !== undefined && inodes.has(inode)) return true
  }
  return false
}

async function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '')
}
