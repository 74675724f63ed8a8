import { beforeAll, describe, expect, test, vi } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { machines, useRoom } from '../support/os-machines.ts'
import { whyNoRoom } from '../support/os-room.ts'
import { nameOf, service, whyNotHere } from './mesh-rig.ts'

/* The whole program on a machine whose resolver a real program keeps; the server and a member are in networks beside it. */

/** Two more machines: `hub` serves, `peer` is a member; `eth0` of this one is on their switch. */
const withNeighbours = `
ip link add br0 type bridge
ip address add 192.0.2.9/24 dev br0
ip link set br0 up
for at in hub:1 peer:2; do
  name=\${at%:*}
  ip netns add $name
  mkdir -p /etc/netns/$name
  printf 'nameserver 192.0.2.254\\n' > /etc/netns/$name/resolv.conf
  ip link add p-$name type veth peer name eth0 netns $name
  ip link set p-$name master br0 up
  ip netns exec $name ip link set lo up
  ip netns exec $name ip address add 192.0.2.\${at#*:}/24 dev eth0
  ip netns exec $name ip link set eth0 up
done
`

const ways: Record<string, string> = {
  resolved: 'systemd-resolved',
  openresolv: 'a record of openresolv',
  resolvconf: 'a record of resolvconf',
}

for (const { what, setUp, from, method } of machines) {
  const way = ways[method]
  if (!way) continue
  const why = whyNotHere() ?? (await whyNoRoom(from))
  describe.skipIf(why)(`nsm connect where names are kept by ${what}${why ? ` (skipped, ${why})` : ''}`, () => {
    const inRoom = useRoom(`${withNeighbours}${setUp}`, from)
    const nsm = (machine: string, line: string) => {
      const state = `NSM_STATE_DIR=/run/nsm-${machine} NSM_RUNTIME_DIR=/run/nsm-${machine}/run`
      const enter = machine === 'here' ? '' : `ip netns exec ${machine} `
      return inRoom.shell(`${state} ${enter}${nsmProgram} ${line}`)
    }
    const connect = async (machine: string) => {
      const join = `/run/join-${machine}`
      await nsm('hub', `invite > ${join}`)
      return JSON.parse(await nsm(machine, `connect ${service} --name ${machine} --join ${join} --timeout 60s --json`))
    }
    const expectAsBefore = async () => {
      await expect.poll(() => inRoom.picture()).toBe(inRoom.before)
      expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
      expect(await inRoom.lookUp(nameOf('peer'))).toBe('')
    }

    beforeAll(async () => {
      const serve = nsm('hub', 'serve > /run/hub.out 2> /run/hub.log < /dev/null')
      serve.catch(() => {})
      await vi.waitFor(() => inRoom.shell("grep -q '^nsm://' /run/hub.out"), { timeout: 120_000, interval: 100 })
      await connect('peer')
    })

    test('finds members and all other names through the system, and says how and why', async () => {
      const { connections } = await connect('here')
      expect(connections[0]).toMatchObject({ name: nameOf('here'), state: 'up' })
      expect(await inRoom.lookUp(nameOf('peer'))).toBe('10.64.0.1')
      expect(await inRoom.lookUp('peer')).toBe('10.64.0.1')
      expect(await inRoom.shell('getent hosts 10.64.0.1')).toContain(nameOf('peer'))
      expect(await inRoom.lookUp('www.example')).toBe('192.0.2.80')
      expect(await inRoom.lookUp('no.example')).toBe('')
      const { system } = JSON.parse(await nsm('here', 'dns status --json')).resolver
      expect(system).toEqual({ method, why: expect.stringContaining(what) })
      expect(await nsm('here', 'dns status')).toContain(`# system resolver set by way of ${way}: ${system.why}`)
    })

    test('puts everything back with `nsm disconnect`', async () => {
      await nsm('here', `connect ${service}`)
      await nsm('here', 'disconnect')
      await expectAsBefore()
    })

    test('puts everything back when the background process is killed, without a cleanup', async () => {
      await nsm('here', `connect ${service}`)
      expect(await inRoom.lookUp(nameOf('peer'))).toBe('10.64.0.1')
      const { daemon } = JSON.parse(await nsm('here', 'version --json'))
      await inRoom.shell(`kill -KILL ${daemon.pid}`)
      await expectAsBefore()
      expect(await nsm('here', 'cleanup')).not.toContain('restored')
    })
  })
}
