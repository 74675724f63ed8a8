import { requireLinux } from '../../base/open.ts'

/** The part of the tunnel that is this operating system's own; throws `USAGE` where there is none. */
export async function loadPlatform(platform: string = process.platform): Promise<typeof import('./linux-platform.ts')> {
  requireLinux('tunnels work', platform)
  return import('./linux-platform.ts')
}
