import { afterEach, describe, expect, test } from 'vitest'
import { createNameService } from '../../src/daemon/name-service.ts'
import { DnsUpstream, reply, type Script, scripts } from '../support/dns-upstream.ts'

const open: DnsUpstream[] = []
afterEach(async () => {
  for (const upstream of open.splice(0)) await upstream.close()
})
const { signal } = new AbortController()

async function start(script: Script) {
  const upstream = await DnsUpstream.open(script)
  open.push(upstream)
  return { upstream, names: createNameService(async () => [upstream.target]) }
}

describe('the name service', () => {
  test('gives the SRV records of exactly the name', async () => {
    const { upstream, names } = await start((question) => [
      reply(question, {
        answers: [
          {
            type: 'SRV',
            name: question.name,
            ttl: 60,
            data: { port: 5_002, target: 'a.far.test', priority: 3, weight: 4 },
          },
        ],
      }),
    ])
    expect(await names.srv('registry.nsm-system.far.test', signal)).toEqual([
      { target: 'a.far.test', port: 5_002, priority: 3, weight: 4 },
    ])
    expect(upstream.asked.map(({ name, type }) => `${type} ${name}`)).toEqual(['SRV registry.nsm-system.far.test'])
  })

  test('gives the addresses of both families, IPv4 first', async () => {
    const { names } = await start((question) => {
      const { name, type } = question
      const data = type === 'AAAA' ? '2001:db8::1' : '192.0.2.1'
      return [
        reply(question, {
          answers: [type === 'AAAA' ? { type, name, ttl: 1, data } : { type: 'A', name, ttl: 1, data }],
        }),
      ]
    })
    expect(await names.addresses('node.far.test', signal)).toEqual(['192.0.2.1', '2001:db8::1'])
  })

  test.each([
    ['no such name', scripts.nxdomain],
    ['nothing of that type', scripts.nodata],
  ])('gives nothing for %s', async (_what, script) => {
    const { names } = await start(script)
    expect(await names.srv('absent.far.test', signal)).toEqual([])
    expect(await names.addresses('absent.far.test', signal)).toEqual([])
  })

  test('says that the resolvers do not answer when they fail', async () => {
    const { names } = await start(scripts.rcode(2))
    await expect(names.srv('any.far.test', signal)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('ESERVFAIL'),
    })
  })

  test('ends with its signal while a resolver is silent', async () => {
    const { upstream, names } = await start(scripts.silent)
    const stop = new AbortController()
    const asking = names.srv('any.far.test', stop.signal)
    await upstream.sawQuestions(1)
    const reason = new RangeError('enough')
    stop.abort(reason)
    await expect(asking).rejects.toBe(reason)
  })

  test('asks the resolvers of the moment', async () => {
    const [first, second] = [await start(scripts.nxdomain), await start(scripts.answering('192.0.2.2'))]
    let now = first.upstream
    const names = createNameService(async () => [now.target])
    expect(await names.addresses('node.far.test', signal)).toEqual([])
    now = second.upstream
    expect(await names.addresses('node.far.test', signal)).toContain('192.0.2.2')
  })
})
