import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { createNames, type NamesParts } from '../../src/connection/names.ts'
import { checkOwnName, type OwnNameCheck } from '../../src/connection/own-name.ts'
import { FakeClock } from './fake-clock.ts'

const host = [{ address: '192.0.2.254', port: 53 }]
const installed = {
  method: 'file' as const,
  why: 'the machine is like that',
  previousUpstreams: host,
  update: async () => {},
  restore: async () => {},
}
const attached = (domain: string) => ({
  scopes: [{ suffix: domain, mode: 'fanout' as const, upstreams: [{ address: '10.64.0.0', port: 53 }] }],
  searchDomains: [domain],
})

function rig(more: Partial<NamesParts> = {}) {
  const done: string[] = []
  const names = createNames({
    settings: { stateDir: '/nowhere', resolvConf: '/nowhere/resolv.conf' },
    clock: new FakeClock(),
    log: silentLog,
    openDns: async () => {
      done.push('open')
      return {
        setScopes: (owner) => done.push(`scopes ${owner}`),
        removeOwner: (owner) => done.push(`remove ${owner}`),
        setDefaultUpstreams: (upstreams) => {
          if (upstreams !== host) done.push(`defaults ${upstreams.map(({ address }) => address)}`)
        },
        status: () => ({
          scopes: [],
          others: JSON.parse('{}'),
          upstreams: [],
          counters: JSON.parse('{}'),
          cache: { entries: 0, bytes: 0 },
        }),
        trace: () => Promise.reject(new NsmError('BUG', 'not asked for', '')),
        flush: () => 0,
        listening: { address: '127.0.0.55', port: 53 },
        close: async () => void done.push('close'),
      }
    },
    readSystemUpstreams: async () => ({ upstreams: host, searchDomains: [] }),
    installSystemDns: async ({ searchDomains }) => {
      done.push(`install ${searchDomains}`)
      return {
        method: 'file',
        why: 'the machine is like that',
        previousUpstreams: host,
        update: async ({ searchDomains: changed }) => void done.push(`update ${changed}`),
        restore: async () => void done.push('restore'),
      }
    },
    ...more,
  })
  return { names, done }
}

describe('createNames', () => {
  test('points the system to us with the first connection and puts it back with the last', async () => {
    const { names, done } = rig()
    await names.attach('a', attached('blue'))
    await names.attach('b', attached('green'))
    expect(names.status()).toMatchObject({
      listening: '127.0.0.55:53',
      system: { method: 'file', why: 'the machine is like that' },
    })
    await names.detach('a')
    await names.detach('b')
    await names.detach('b')
    expect(done).toEqual([
      'open',
      'scopes a',
      'install blue',
      'scopes b',
      'update blue,green',
      'remove a',
      'update green',
      'restore',
      'close',
    ])
    expect(names.status()).toBeUndefined()
  })

  test('tells the system of each interface what is asked there, reverse names too', async () => {
    const told: unknown[] = []
    const { names } = rig({
      installSystemDns: async ({ searchDomains, links }) => {
        told.push({ searchDomains, links })
        return {
          method: 'resolved',
          why: 'the machine is like that',
          previousUpstreams: host,
          update: async (served) => void told.push(served),
          restore: async () => {},
        }
      },
    })
    const blue = attached('blue')
    const reverse = { suffix: '10.64.0.0/16', mode: 'fanout' as const, upstreams: [] }
    await names.attach('a', { ...blue, scopes: [...blue.scopes, reverse], interfaceName: 'nsm-blue' })
    await names.attach('b', attached('green'))
    const link = { interfaceName: 'nsm-blue', searchDomains: ['blue'], suffixes: ['blue', '10.64.0.0/16'] }
    expect(told).toEqual([
      { searchDomains: ['blue'], links: [link] },
      { searchDomains: ['blue', 'green'], links: [link] },
    ])
    await names.detach('a')
    expect(told.at(-1)).toEqual({ searchDomains: ['green'], links: [] })
  })

  test('asks the resolvers that another program writes into the file meanwhile', async () => {
    let foreign = (_upstreams: typeof host) => {}
    const { names, done } = rig({
      installSystemDns: async ({ onForeignUpstreams }) => {
        foreign = (upstreams) => onForeignUpstreams?.(upstreams)
        return installed
      },
    })
    await names.attach('a', attached('blue'))
    foreign([{ address: '198.51.100.53', port: 53 }])
    expect(done).toEqual(['open', 'scopes a', 'defaults 198.51.100.53'])
    expect(await names.upstreams()).toEqual([{ address: '198.51.100.53', port: 53 }])
  })

  test('gives its resolver only while something is attached', async () => {
    const { names } = rig()
    expect(names.resolver()).toBeUndefined()
    await names.attach('a', attached('blue'))
    expect(names.resolver()?.listening.port).toBe(53)
    await names.detach('a')
    expect(names.resolver()).toBeUndefined()
  })

  test('changes follow each other, however they are asked for', async () => {
    const { names, done } = rig()
    names.prepare()
    await Promise.all([names.attach('a', attached('blue')), names.detach('a'), names.attach('a', attached('blue'))])
    await names.close()
    expect(done.filter((line) => /install|restore/.test(line))).toEqual([
      'install blue',
      'restore',
      'install blue',
      'restore',
    ])
    expect(done.filter((line) => line === 'open').length).toBe(done.filter((line) => line === 'close').length)
  })

  test('what cannot be installed is thrown, and the next attach tries again', async () => {
    let fails = true
    const { names } = rig({
      installSystemDns: async () => {
        if (fails) throw new NsmError('PERMISSION', 'read-only', 'mount it')
        return installed
      },
    })
    await expect(names.attach('a', attached('blue'))).rejects.toMatchObject({ code: 'PERMISSION' })
    fails = false
    await names.attach('a', attached('blue'))
    expect(await names.upstreams()).toEqual(host)
  })
})

describe('checkOwnName', () => {
  const notFound = Object.assign(new NsmError('BUG', 'ENOTFOUND', ''), { code: 'ENOTFOUND' })
  const silent = Object.assign(new NsmError('BUG', 'EAI_AGAIN', ''), { code: 'EAI_AGAIN' })
  const base = { clock: new FakeClock(), name: 'Lap.Top', zones: ['blue'], addresses: ['10.64.0.1'] }
  const { signal } = new AbortController()

  function machine(answers: (() => string[])[], reverse?: string): OwnNameCheck['machine'] {
    return {
      lookUp: async () => (answers.length > 1 ? (answers.shift() ?? (() => [])) : (answers[0] ?? (() => [])))(),
      lookUpAddress: async () => {
        if (reverse === undefined) throw notFound
        return reverse
      },
    }
  }
  const fail = (error: Error) => () => {
    throw error
  }

  test('gives the own name once it leads to the own address', async () => {
    expect(await checkOwnName({ ...base, machine: machine([() => ['10.64.0.1']]) }, signal)).toBe('lap-top.blue')
  })

  test('tries again while there is no answer', async () => {
    const clock = new FakeClock()
    const found = checkOwnName(
      { ...base, clock, machine: machine([fail(silent), fail(silent), () => ['10.64.0.1']]) },
      signal,
    )
    await clock.advance(1_000)
    expect(await found).toBe('lap-top.blue')
  })

  test('asks by address when the name is another machine’s', async () => {
    expect(await checkOwnName({ ...base, machine: machine([() => ['10.64.0.9']], 'lap-top-2.blue') }, signal)).toBe(
      'lap-top-2.blue',
    )
  })

  test('is content without a name when the service clearly has none', async () => {
    const clock = new FakeClock()
    const found = checkOwnName({ ...base, clock, machine: machine([fail(notFound)]) }, signal)
    await clock.advance(1_000)
    expect(await found).toBeUndefined()
  })

  test('ends with the signal’s reason, also while a look-up hangs', async () => {
    const stop = new AbortController()
    const hanging = { lookUp: () => new Promise<never>(() => {}), lookUpAddress: () => new Promise<never>(() => {}) }
    const found = checkOwnName({ ...base, machine: hanging }, stop.signal)
    stop.abort(new NsmError('UNREACHABLE', 'late', 'wait'))
    await expect(found).rejects.toMatchObject({ message: 'late' })
  })
})
