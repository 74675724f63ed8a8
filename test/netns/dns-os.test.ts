import { describe, expect, test } from 'vitest'
import { machines, useRoom } from '../support/os-machines.ts'
import { whyNoRoom } from '../support/os-room.ts'
import * as settings from '../support/os-settings.ts'

/* The system's resolver, set and put back on machines of their own, each with a real program that keeps it. */

for (const { what, setUp, from, method } of machines) {
  const why = await whyNoRoom(from)
  describe.skipIf(why)(`system resolver kept by ${what}${why ? ` (skipped, ${why})` : ''}`, () => {
    const inRoom = useRoom(setUp, from)

    test(`is set by way of "${method}": the service's names work, short ones too, and all others as before`, async () => {
      const nsm = await inRoom.serve()
      expect(nsm.start).toEqual({ method, previous: ['127.0.0.2'] })
      expect(await inRoom.lookUp('db.svc.test')).toBe('10.64.0.2')
      expect(await inRoom.lookUp('db')).toBe('10.64.0.2')
      expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
      expect(await inRoom.lookUp('no.svc.test')).toBe('')
      await nsm.stop('SIGTERM')
      expect(await inRoom.picture()).toBe(inRoom.before)
      expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
      expect(await inRoom.lookUp('db.svc.test')).toBe('')
    })

    test('comes back byte for byte with the next start after SIGKILL', async () => {
      const first = await inRoom.serve()
      await first.stop('SIGKILL')
      expect(await inRoom.picture()).not.toBe(inRoom.before)
      const second = await inRoom.serve()
      expect(second.start).toEqual({ method, previous: ['127.0.0.2'] })
      await second.stop('SIGTERM')
      expect(await inRoom.picture()).toBe(inRoom.before)
    })

    if (from === 'openresolv' || from === 'resolvconf') {
      test('tells nsm of the resolvers that a new network brings, and stays at nsm', async () => {
        const nsm = await inRoom.serve()
        await inRoom.shell(`printf 'nameserver 192.0.2.99\\n' | resolvconf -a eth1.dhcp`)
        await nsm.says({ foreign: ['127.0.0.2', '192.0.2.99'] })
        expect(await inRoom.shell('grep ^nameserver /etc/resolv.conf')).toMatch(/^nameserver 127.0.0.5[5-9]\n$/)
        await inRoom.shell('resolvconf -d eth1.dhcp')
        await nsm.stop('SIGTERM')
        expect(await inRoom.picture()).toBe(inRoom.before)
      })
    }
    if (method === 'resolved') return
    test('is left alone when somebody has written it meanwhile', async () => {
      const nsm = await inRoom.serve()
      await nsm.stop('SIGKILL')
      const foreign = 'nameserver 198.51.100.1\n'
      await inRoom.shell(`printf 'nameserver 198.51.100.1\\n' > /etc/resolv.conf`)
      expect(await inRoom.repair()).toBe('left')
      expect(await inRoom.shell('cat /etc/resolv.conf')).toBe(foreign)
      expect(await inRoom.shell('resolvconf -l 2>&1 || true')).not.toContain('127.0.0.55')
    })
  })
}

const cannot = await whyNoRoom()
describe.skipIf(cannot)(`resolver file that cannot be written${cannot ? ` (skipped, ${cannot})` : ''}`, () => {
  const inRoom = useRoom(settings.withReadOnly, undefined)

  test('ends in PERMISSION, stays as it is, and leaves no journal', async () => {
    expect(await inRoom.tryInstall()).toEqual({ code: 'PERMISSION', next: expect.stringContaining('--dns off') })
    expect(await inRoom.picture()).toBe(inRoom.before)
    expect(await inRoom.repair()).toBe('nothing')
  })
})

const nsm0 =
  'ip link add nsm0 type veth peer name far0; ip address add 198.18.20.1/24 dev nsm0; ip link set nsm0 up; ip link set far0 up'
const whyNot = await whyNoRoom('systemd-resolved')
describe.skipIf(whyNot)(`systemd-resolved${whyNot ? ` (skipped, ${whyNot})` : ''}`, () => {
  const inRoom = useRoom(settings.withResolved, 'systemd-resolved')

  test('hands the names of the service to nsm, forward and reverse, and no other one', async () => {
    const nsm = await inRoom.serve()
    expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
    expect(await inRoom.lookUp('other.example.')).toBe('')
    nsm.tell('queries')
    await nsm.says({ queries: 0 })
    await inRoom.lookUp('db.svc.test')
    await inRoom.shell('getent hosts 10.65.1.2 || true')
    nsm.tell('queries')
    await expect.poll(() => nsm.said.findLast((line) => line.includes('queries'))).not.toContain(':0')
    expect(await inRoom.shell('resolvectl domain nsm0')).toContain('svc.test ~64.10.in-addr.arpa ~65.10.in-addr.arpa')
    expect(await inRoom.shell('resolvectl default-route nsm0')).toContain('no')
  })

  test('takes the names of one interface away and of another one in', async () => {
    const nsm = await inRoom.serve()
    nsm.tell('green')
    await nsm.says('green')
    expect(await inRoom.shell('resolvectl dns nsm0; resolvectl domain nsm1')).toMatch(
      /nsm0\):\n.*nsm1\): ~green.test\n/,
    )
  })

  test('is told of an interface though another one has just gone', async () => {
    const nsm = await inRoom.serve()
    nsm.tell('gone')
    await nsm.says('gone')
    expect(await inRoom.shell('resolvectl domain nsm1')).toContain('~green.test')
  })

  test('is told again when somebody reverts the interface, and forgets it with the interface', async () => {
    await inRoom.serve()
    await inRoom.shell('resolvectl revert nsm0')
    await expect.poll(() => inRoom.shell('resolvectl dns nsm0')).toContain('127.0.0.55')
    await inRoom.shell('ip link delete nsm0')
    await expect.poll(() => inRoom.shell('cat /run/systemd/resolve/resolv.conf')).not.toContain('.55')
    await inRoom.shell(nsm0)
  })

  test('that loses the setting again and again is left alone, and is told of the next service and watched anew', async () => {
    const before = await inRoom.picture()
    const nsm = await inRoom.serve()
    const hasGivenWay = () => nsm.said.some((line) => line.includes('keeps changing'))
    while (!hasGivenWay()) await inRoom.shell('for i in $(seq 20); do resolvectl revert nsm0; done')
    expect(await inRoom.shell('resolvectl dns nsm0')).not.toContain('.55')
    nsm.tell('green')
    await nsm.says('green')
    expect(await inRoom.shell('resolvectl dns nsm1; resolvectl domain nsm1')).toMatch(/127.0.0.55\n.*~green.test\n/)
    await inRoom.shell('resolvectl revert nsm1')
    await expect.poll(() => inRoom.shell('resolvectl dns nsm1')).toContain('127.0.0.55')
    await nsm.stop('SIGTERM')
    expect(await inRoom.picture()).toBe(before)
  })

  test('tells nsm of the resolvers that a new network brings', async () => {
    const nsm = await inRoom.serve()
    await inRoom.shell('resolvectl dns nsm1 192.0.2.99')
    await nsm.says({ foreign: ['127.0.0.2', '192.0.2.99'] })
    await inRoom.shell('resolvectl revert nsm1')
  })

  test('with a tunnel of a killed process forgets everything by itself, without a cleanup', async () => {
    const before = await inRoom.picture()
    const nsm = await inRoom.serve('tunnel')
    expect(nsm.start.method).toBe('resolved')
    expect(await inRoom.lookUp('db')).toBe('10.64.0.2')
    expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
    await nsm.stop('SIGKILL')
    await expect.poll(() => inRoom.shell('cat /run/systemd/resolve/resolv.conf')).not.toContain('.55')
    expect(await inRoom.picture()).toBe(before)
    expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
    expect(await inRoom.repair()).toBe('nothing')
  })

  test('keeps what it was told when it is started anew', async () => {
    const nsm = await inRoom.serve()
    await inRoom.restartResolved()
    await expect.poll(() => inRoom.lookUp('db.svc.test')).toBe('10.64.0.2')
    await nsm.stop('SIGTERM')
    expect(await inRoom.shell('resolvectl dns nsm0')).not.toContain('.55')
  })

  test('that refuses is left as it was, and the file is taken', async () => {
    await inRoom.shell('ip link delete nsm0')
    const nsm = await inRoom.serve()
    expect(nsm.start).toEqual({ method: 'file', previous: ['127.0.0.2'] })
    expect(await inRoom.lookUp('db.svc.test')).toBe('10.64.0.2')
    expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
    await nsm.stop('SIGTERM')
    expect(await inRoom.shell('readlink /etc/resolv.conf')).toBe('../run/systemd/resolve/stub-resolv.conf\n')
    await inRoom.shell(nsm0)
  })

  test('keeps the server that somebody else gave the interface meanwhile', async () => {
    const nsm = await inRoom.serve()
    await nsm.stop('SIGKILL')
    await inRoom.shell('resolvectl dns nsm0 192.0.2.77')
    expect(await inRoom.repair()).toBe('left')
    expect(await inRoom.shell('resolvectl dns nsm0')).toContain('192.0.2.77')
    await inRoom.shell('resolvectl revert nsm0')
  })
})
