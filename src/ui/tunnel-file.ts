import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { NsmError } from '../base/errors.ts'
import type { TunnelUpRequest } from '../daemon/tunnel-protocol.ts'

/** The interface a file or a name stands for: `/etc/wireguard/wg0.conf` and `wg0` are both wg0, as with wg-quick(8). */
export function interfaceNameOf(fileOrName: string): string {
  const name = basename(fileOrName).replace(/\.conf$/, '')
  if (/^(?!\.{1,2}$)[A-Za-z0-9_=+.-]{1,15}$/.test(name)) return name
  throw new NsmError(
    'USAGE',
    `"${name}" is no interface name`,
    'rename the file to 1 to 15 letters and .conf, or use --interface',
  )
}

/** Reads a tunnel's file; `-` is standard input and needs the interface's name. Throws `USAGE`. */
export async function readTunnelFile(
  path: string,
  wanted: { readonly interfaceName: string | undefined; readonly readInput: () => Promise<string> },
): Promise<TunnelUpRequest> {
  if (path === '-' && wanted.interfaceName === undefined) {
    throw new NsmError('USAGE', 'standard input has no name for the interface', 'add --interface NAME')
  }
  const interfaceName = interfaceNameOf(wanted.interfaceName ?? path)
  if (path === '-') return { interfaceName, fileName: 'standard input', text: await wanted.readInput() }
  try {
    return { interfaceName, fileName: path, text: await readFile(path, 'utf8') }
  } catch (cause) {
    throw new NsmError('USAGE', `${path} cannot be read`, 'check the path and its permissions', { cause })
  }
}
