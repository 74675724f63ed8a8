import { rename } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { policyText } from '../support/policy.ts'
import { eventually, MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()
const words = (members: readonly string[]) => ({
  td: 'acme.example',
  grants: members.map((name) => ({
    ...{ name, who: `spiffe://acme.example/team/${name}` },
    ...{ may: ['find', 'request'], services: [service], limits: { connections: 2, token_lifetime: '1m' } },
  })),
})

describe.skipIf(why !== undefined)(`nsm serve --policy in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let path: string

  const connect = async (machine: string) => {
    const { out } = await rig.nsm('s', 'invite', '--id', `/team/${machine}`)
    const join = await rig.file(`join-${machine}`, out)
    return rig.nsm(machine, 'connect', service, '--name', machine, '--timeout', '60s', '--json', '--join', join)
  }
  const rewrite = async (members: readonly string[]) => {
    await rename(await rig.file('policy.next', policyText(words(members))), path)
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmp5', ['s', 'a', 'b', 'c', 'd'])
    path = await rig.file('policy.json', policyText(words(['a', 'b', 'd'])))
    await rig.serve('--policy', path, '--trust-domain', 'acme.example')
  })

  afterAll(() => rig.close())

  test('machines with a grant join, and reach each other', async () => {
    for (const machine of ['a', 'b', 'd']) {
      const { code, out, err } = await connect(machine)
      expect(code, out + err).toBe(0)
    }
    await eventually(() => rig.reaches('a', nameOf('b')))
  })

  test('one without a grant ends with REFUSED (5), is told what was not granted, and nothing is left of it', async () => {
    const before = await rig.fingerprint('c')
    const { code, out } = await connect('c')
    expect([code, out]).toEqual([5, expect.stringContaining(`NOT_GRANTED: request ${service}`)])
    expect(await rig.fingerprint('c')).toBe(before)
    const list = await rig.nsm('c', 'list', '--json')
    expect(JSON.parse(list.out).services).toEqual([])
  })

  test('the policy says why, on the server', async () => {
    const ask = (who: string) =>
      rig.nsm(
        's',
        'policy',
        'test',
        '--id',
        `spiffe://acme.example/team/${who}`,
        '--action',
        'request',
        '--service',
        service,
      )
    const [granted, refused] = [await ask('a'), await ask('c')]
    expect([granted.code, granted.out]).toEqual([0, expect.stringMatching(/^granted by a, .*policy\.json line \d+\n$/)])
    expect([refused.code, refused.out]).toEqual([5, expect.stringContaining('NOT_GRANTED')])
  })

  test('a grant that leaves the file stops the packets of its machine, and nobody else notices', async () => {
    const addressOf = async (machine: string) =>
      (await rig.status(machine)).connections[0]?.addresses[0]?.split('/')[0] ??
      expect.fail(`${machine} has no address`)
    const [a, d] = [await addressOf('a'), await addressOf('d')]
    const stopped = rewrite(['b', 'd']).then(() => eventually(async () => !(await rig.reaches('b', a))))
    expect(await rig.lostMeanwhile('b', d, stopped)).toBe(0)
    expect((await rig.status('d')).connections[0]?.state).toBe('up')
  })

  test('the machine that is out says so, and is in again when its grant is back', async () => {
    await expect
      .poll(async () => (await rig.status('a')).connections)
      .toMatchObject([
        {
          state: 'healing',
          error: { code: 'REFUSED', message: expect.stringContaining(`NOT_GRANTED: request ${service}`) },
        },
      ])
    await rewrite(['a', 'b', 'd'])
    await eventually(() => rig.reaches('a', nameOf('b')))
  })
})
