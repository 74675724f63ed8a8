import { NsmError } from '../../base/errors.ts'

/** The part of the tunnel that is this operating system's own; throws `USAGE` where there is none. */
export async function loadPlatform(platform: string = process.platform): Promise<typeof import('./linux-platform.ts')> {
  if (platform !== 'linux') {
    throw new NsmError('USAGE', `tunnels are not supported on ${platform}`, 'use a Linux machine, VM or container')
  }
  return import('./linux-platform.ts')
}
