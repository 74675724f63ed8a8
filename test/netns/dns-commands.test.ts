import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()
const zone = `${service}.nsm.internal`

describe.skipIf(why !== undefined)(`nsm dns in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const nsm = async (...words: string[]) => {
    const ended = await rig.nsm('a', ...words, '--json')
    expect(ended.code, ended.err + ended.out).toBe(0)
    return JSON.parse(ended.out)
  }
  const connect = (...more: string[]) => nsm('connect', service, '--name', 'a', '--timeout', '60s', ...more)

  beforeAll(async () => {
    rig = await MeshRig.open('nsmdq', ['s', 'a'])
    await connect('--join', await rig.file('join-a', await rig.serve()))
  })

  afterAll(() => rig.close())

  test("status shows the service's scopes, and who else is told in a fan-out", async () => {
    const { resolver } = await nsm('dns', 'status')
    expect(resolver.listening).toMatch(/^127\.0\.0\.5\d:53$/)
    const scopes = new Map(resolver.scopes.map((scope: { suffix: string }) => [scope.suffix, scope]))
    expect(scopes.get(zone)).toMatchObject({ mode: 'fanout', servers: ['10.64.0.0'] })
    expect([...scopes.keys()]).toEqual([zone, '10.64.0.0/16'])
    const text = await rig.nsm('a', 'dns', 'status')
    expect(text.out).toContain(zone)
  })

  test("query and trace find the own name at the service's server, by name and by address", async () => {
    const found = await nsm('dns', 'query', nameOf('a'))
    expect(found).toMatchObject({ rcode: 'NOERROR', answers: [{ type: 'A', data: '10.64.0.1' }] })
    const trace = await nsm('dns', 'trace', nameOf('a'))
    expect(trace).toMatchObject({ answeredBy: 'upstreams', inCache: true, hops: [{ scope: zone, mode: 'fanout' }] })
    const [winner] = trace.hops[0].contestants
    expect(winner).toMatchObject({ server: '10.64.0.0', side: 'service', won: true, said: 'positive' })
    const reverse = await nsm('dns', 'trace', '1.0.64.10.in-addr.arpa', '--type', 'PTR')
    expect(reverse).toMatchObject({ hops: [{ scope: '10.64.0.0/16' }], answer: { answers: [{ data: nameOf('a') }] } })
  })

  test('flush forgets what was asked', async () => {
    await nsm('dns', 'query', nameOf('a'))
    expect((await nsm('dns', 'flush')).forgotten).toBeGreaterThan(0)
    expect((await nsm('dns', 'trace', nameOf('a'))).inCache).toBe(false)
  })

  test('a service connected as exclusive tells nobody else, and the counters say who won', async () => {
    await connect('--dns-mode', 'exclusive')
    await nsm('dns', 'query', nameOf('a'))
    const { resolver } = await nsm('dns', 'status')
    const scope = resolver.scopes.find(({ suffix }: { suffix: string }) => suffix === zone)
    expect(scope).toMatchObject({ mode: 'exclusive', hostServers: [] })
    expect(scope.figures.won.service).toBeGreaterThan(0)
  })

  test('without a service no resolver runs: status says so, trace is NOT_READY or finds no process', async () => {
    await nsm('disconnect', '--all')
    expect((await nsm('dns', 'status')).resolver).toBeUndefined()
    expect([3, 7]).toContain((await rig.nsm('a', 'dns', 'trace', nameOf('a'))).code)
  })
})
