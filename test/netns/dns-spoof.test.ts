import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { whyNoRoom } from '../support/os-room.ts'

const why = await whyNoRoom()
const program = resolve(import.meta.dirname, '../support/dns-spoof-program.ts')

test.skipIf(why)(
  `the resolver believes none of 100,000 forged replies, asks no more for it, and takes the true one${why ? ` (skipped, ${why})` : ''}`,
  async () => {
    const inNetwork = `ip link set lo up && ip address add 203.0.113.53/32 dev lo && ip address add 203.0.113.54/32 dev lo`
    const script = `${inNetwork} && exec ${process.execPath} ${program}`
    const { stdout } = await promisify(execFile)('unshare', ['-n', 'sh', '-c', script])
    const { forgeries, during, after, data } = JSON.parse(stdout)
    expect(Object.values<number>(forgeries).reduce((sum, count) => sum + count)).toBe(100_000)
    // Those with the right id, port and source came as far as the look at the question: the wait went on after each.
    expect(during).toMatchObject({ sent: 1, replies: 0, unreachable: 0, rejected: forgeries.otherName })
    expect(after).toMatchObject({ sent: 1, replies: 1 })
    expect(data).toEqual(['192.0.2.1'])
  },
)
