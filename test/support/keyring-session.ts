import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'

/** A D-Bus session with a real gnome-keyring, and what a program of that user has in its environment. */
export interface KeyringSession {
  readonly environment: Readonly<Record<string, string>>
  close(): Promise<void>
}

/** Empty where there is one to start; else the words for the name of a test. */
export const keyringMissing = ['dbus-run-session', 'gnome-keyring-daemon']
  .filter((program) => spawnSync(program, ['--version']).error !== undefined)
  .map((program) => `(skipped: no ${program})`)
  .join('')

/** Starts one in the home of a user, whose keyring is opened, or asks for a password that nobody types. */
export async function startKeyring(home: string, state: 'unlocked' | 'locked' = 'unlocked'): Promise<KeyringSession> {
  const dirs = { HOME: home, XDG_RUNTIME_DIR: join(home, 'run'), XDG_DATA_HOME: join(home, 'data') }
  for (const dir of [dirs.XDG_RUNTIME_DIR, dirs.XDG_DATA_HOME]) await mkdir(dir, { mode: 0o700, recursive: true })
  const flag = state === 'unlocked' ? '--unlock' : '--start'
  const script = `printf password | gnome-keyring-daemon ${flag} --components=secrets >/dev/null
printf '%s\\n' "$DBUS_SESSION_BUS_ADDRESS"; cat >/dev/null`
  const path = process.env['PATH'] ?? ''
  const child = spawn('dbus-run-session', ['--', 'sh', '-c', script], {
    env: { ...dirs, PATH: path },
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  const ended = once(child, 'exit')
  const [line] = await once(child.stdout, 'data')
  return {
    environment: { ...dirs, PATH: path, DBUS_SESSION_BUS_ADDRESS: String(line).trim() },
    async close() {
      child.stdin.end()
      await ended
    },
  }
}
