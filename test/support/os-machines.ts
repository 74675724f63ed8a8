import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, afterEach, beforeAll, expect } from 'vitest'
import type { DebianPackage } from './debian-packages.ts'
import { openRoom, type Room, type RoomProgram } from './os-room.ts'
import * as settings from './os-settings.ts'

const program = resolve(import.meta.dirname, 'os-dns-program.ts')
const upstreams = resolve(import.meta.dirname, 'dns-fixture.ts')

/** A kind of machine, and the way its system is to be set. */
export interface Machine {
  readonly what: string
  readonly setUp: string
  readonly from?: DebianPackage
  readonly method: string
}

/** One for each way, with the real program that keeps the system's resolver there. */
export const machines: readonly Machine[] = [
  { what: 'a plain file', setUp: settings.withFile, method: 'file' },
  { what: 'a link to a file of another program', setUp: settings.withLink, method: 'file' },
  { what: 'a file that is a mount', setUp: settings.withMount, method: 'file' },
  { what: 'openresolv', setUp: settings.withOpenresolv, from: 'openresolv', method: 'openresolv' },
  { what: 'resolvconf of Debian', setUp: settings.withResolvconf, from: 'resolvconf', method: 'resolvconf' },
  { what: 'systemd-resolved', setUp: settings.withResolved, from: 'systemd-resolved', method: 'resolved' },
]

/** A room for the tests of one block, with two resolvers in it. */
export function useRoom(setUp: string, from: DebianPackage | undefined) {
  let room: Room
  let stateDir = ''
  let before = ''
  const started: RoomProgram[] = []
  afterEach(async () => {
    for (const nsm of started.splice(0)) await nsm.stop('SIGKILL').catch(() => {})
    await room.run(process.execPath, program, 'repair', stateDir)
  })
  const picture = () => room.run(process.execPath, program, 'picture', stateDir)
  beforeAll(async () => {
    room = await openRoom(`${settings.withLinks}\n${setUp}`, from)
    stateDir = await mkdtemp(join(tmpdir(), 'nsm-room-'))
    await room.start(process.execPath, upstreams, 'upstreams')
    before = await picture()
  })
  afterAll(async () => {
    await room?.close()
    if (stateDir) await rm(stateDir, { recursive: true, force: true })
  })
  return {
    get before() {
      return before
    },
    picture,
    tryInstall: async () => JSON.parse(await room.run(process.execPath, program, 'try', stateDir)),
    repair: async () => JSON.parse(await room.run(process.execPath, program, 'repair', stateDir)),
    steps: async () => {
      const lines = await room.run(process.execPath, program, 'steps', stateDir)
      const [last, ...rounds] = lines
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
        .reverse()
      return { rounds: rounds.reverse(), end: last.end }
    },
    restartResolved: async () => {
      await room.run(
        'sh',
        '-c',
        'kill "$(cat /run/resolved.pid)"; while resolvectl dns > /dev/null 2>&1; do sleep 0.02; done',
      )
      await room.run('sh', '-c', settings.startResolved)
    },
    shell: (text: string) => room.run('sh', '-c', text),
    /** The first address glibc gives; '' for none. */
    lookUp: async (name: string) => {
      const text = await room.run('getent', 'ahostsv4', name).catch(() => '')
      return text.split(/\s+/)[0] ?? ''
    },
    serve: async (role = 'serve') => {
      const nsm = running(await room.start(process.execPath, program, role, stateDir))
      started.push(nsm)
      return nsm
    },
  }
}

/** A resolver in the room. */
function running(child: RoomProgram) {
  return {
    ...child,
    start: JSON.parse(child.said[0] ?? '{}'),
    /** Waits until it has said this. */
    says: (what: unknown) => expect.poll(() => child.said).toContain(JSON.stringify(what)),
  }
}
