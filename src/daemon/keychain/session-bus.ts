import { stat } from 'node:fs/promises'
import type { Environment } from '../../base/settings.ts'

/**
 * The address of the D-Bus session of this process's own user, undefined when there is none: of the environment, else where
 * systemd has it. A bus of another user, as `sudo` may leave it in the environment, is none: what root keeps is not the user's.
 */
export async function findSessionBus(environment: Environment, uid: number): Promise<string | undefined> {
  const places = [environment['DBUS_SESSION_BUS_ADDRESS'] ?? '', `unix:path=/run/user/${uid}/bus`]
  for (const place of places) {
    // [D-Bus specification, server addresses] Several in one text, keys in any order, bytes as %xx.
    for (const address of place.split(';')) {
      const [, path] = /^unix:(?:.*,)?path=([^,]+)/.exec(address) ?? []
      if (path !== undefined && (await isOwnSocket(decoded(path), uid))) return address
    }
  }
  return undefined
}

async function isOwnSocket(path: string, uid: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found?.isSocket() === true && found.uid === uid
}

function decoded(path: string): string {
  return /%(?![0-9A-Fa-f]{2})/.test(path) ? path : decodeURIComponent(path)
}
