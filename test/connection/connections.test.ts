import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { State } from '../../src/nsm/generated/connection_pb.js'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { settle } from './fake-clock.ts'
import { type Step, World } from './world.ts'

const broken = new NsmError('CONFLICT', 'broken here', 'mend it')

describe('Connections.connect', () => {
  test('asks, opens the tunnel meanwhile, configures, serves names, and is up', async () => {
    const world = new World()
    const { view, isNew } = await world.connect()
    expect(isNew).toBe(true)
    expect(view).toMatchObject({
      id: 'blue-id',
      service: 'blue',
      state: 'up',
      interfaceName: 'nsm-blue',
      addresses: ['10.64.0.1/32'],
      routes: ['10.64.0.0/16'],
      dnsDomains: ['blue.nsm.internal'],
      name: 'laptop.blue.nsm.internal',
      endpoint: 'blue-vl3',
      endpointAddress: '192.0.2.1:51820',
      mtuBytes: 1_400,
    })
    // It was opened with what the way to the manager carries; the endpoint gave less.
    expect(world.mtuBytes).toBe(1_400)
    expect(world.done.toSorted()).toEqual(
      [
        'attach blue.nsm.internal',
        'configure 10.64.0.1/32 10.64.0.0/32,10.64.0.0/16',
        'fence 10.64.0.1/32 10.64.0.0/32,10.64.0.0/16',
        'handshake',
        'journal nsm-blue',
        'look-up',
        'open nsm-blue',
        'request',
        'set-peer',
      ].toSorted(),
    )
  })

  test('sends what the endpoint must know: key, address, MTU, podName, and what this machine uses', async () => {
    const world = new World()
    await world.connect({ excludePrefixes: ['10.99.0.0/16'], labels: { app: 'x' } })
    const [request] = world.requests
    expect(request?.connection).toMatchObject({
      id: 'blue-id',
      networkService: 'blue',
      payload: 'IP',
      labels: { app: 'x', podName: 'laptop' },
    })
    expect(request?.connection?.context?.ipContext?.excludedPrefixes).toEqual([
      '192.0.2.0/24',
      '192.0.2.1/32',
      '192.0.2.254/32',
      '10.99.0.0/16',
    ])
    expect(request?.mechanismPreferences[0]?.parameters).toMatchObject({
      src_ip: '192.0.2.7',
      src_port: '51820',
      MTU: '1420',
    })
  })

  const afterOpen = ['close-tunnel', 'unjournal nsm-blue', 'close']
  test.each<[Step, readonly string[]]>([
    ['request', ['close-tunnel', 'unjournal nsm-blue']],
    ['open', ['unjournal nsm-blue', 'close']],
    ['set-peer', ['unconfigure', ...afterOpen]],
    ['handshake', ['unconfigure', ...afterOpen]],
    ['configure', afterOpen],
    ['attach', ['detach', 'unconfigure', ...afterOpen]],
  ])('a failure at %s is thrown after everything is undone, last change first', async (step, undone) => {
    const world = new World()
    world.failing.set(step, broken)
    await expect(world.connect()).rejects.toMatchObject({ code: 'CONFLICT', message: 'broken here' })
    const undos = world.done.filter((line) => /^(un(?!fence)|detach|close)/.test(line))
    expect(undos.filter((line) => line !== 'close')).toEqual(undone.filter((line) => line !== 'close'))
    expect(undos.includes('close')).toBe(undone.includes('close'))
    expect(await world.connections.views()).toEqual([])
    expect(world.counts.at(-1)).toBe(0)
  })

  test.each<Step>(['request', 'handshake', 'look-up'])(
    'a caller that gives up during %s leaves nothing behind',
    async (step) => {
      const world = new World()
      world.hanging.add(step)
      const stop = new AbortController()
      const failed = expect(world.connect({}, stop.signal)).rejects.toMatchObject({ message: 'late' })
      await settle()
      stop.abort(new NsmError('UNREACHABLE', 'late', 'wait'))
      await settle()
      await Promise.all([world.clock.advance(2_000), failed])
      expect(world.done).toContain('close-tunnel')
      expect(await world.connections.views()).toEqual([])
    },
  )

  test.each<Step>(['open', 'set-peer', 'configure', 'attach'])(
    'a caller that gives up gets its answer even when %s never ends',
    async (step) => {
      const world = new World()
      world.deaf.add(step)
      const stop = new AbortController()
      const failed = expect(world.connect({}, stop.signal)).rejects.toMatchObject({ message: 'late' })
      await settle()
      stop.abort(new NsmError('UNREACHABLE', 'late', 'wait'))
      await Promise.all([settle().then(() => world.clock.advance(3_000)), failed])
      expect(await world.connections.views()).toEqual([])
    },
  )

  test('a tunnel that opens when everything is undone is closed again', async () => {
    const world = new World()
    world.deaf.add('open')
    const stop = new AbortController()
    const failed = expect(world.connect({}, stop.signal)).rejects.toMatchObject({ message: 'late' })
    await settle()
    stop.abort(new NsmError('UNREACHABLE', 'late', 'wait'))
    await Promise.all([settle().then(() => world.clock.advance(3_000)), failed])
    expect(world.done).not.toContain('close-tunnel')
    world.cured.resolve()
    await settle()
    expect(world.done).toContain('close-tunnel')
  })

  test('an answer outside the bounds is closed at the manager and nothing is configured', async () => {
    const world = new World()
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      connection.context?.ipContext?.srcIpAddrs.push('8.8.8.8/32')
      return connection
    }
    await expect(world.connect()).rejects.toMatchObject({ code: 'REFUSED' })
    expect(world.done).toContain('close')
    expect(world.done.some((line) => line.startsWith('configure'))).toBe(false)
  })

  test('an answer without a WireGuard endpoint is REFUSED with what to ask, and closed at the manager', async () => {
    const world = new World()
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      for (const key of ['dst_ip', 'dst_port', 'dst_public_key']) delete connection.mechanism?.parameters[key]
      return connection
    }
    await expect(world.connect()).rejects.toMatchObject({
      code: 'REFUSED',
      message: 'the answer carries no WireGuard endpoint',
      next: expect.stringContaining('payload IP'),
    })
    expect(world.done).toContain('close')
    expect(world.done.some((line) => line.startsWith('configure'))).toBe(false)
  })

  test('an answer that collides with this machine is a CONFLICT that names both sides', async () => {
    const world = new World()
    world.host = { ...world.host, routes: [{ interfaceName: 'wlan0', prefix: '10.0.0.0/8', gateway: undefined }] }
    await expect(world.connect()).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('10.64.0.0/16 overlaps 10.0.0.0/8 (route on wlan0)'),
    })
  })

  test('a second service with the same prefixes is a CONFLICT that names the first', async () => {
    const world = new World()
    await world.connect()
    await expect(world.connect({ service: 'green' })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('network service blue'),
    })
    expect((await world.connections.views()).length).toBe(1)
  })

  test('the same again asks nobody; two at once make one connection', async () => {
    const world = new World()
    const results = await Promise.all([world.connect(), world.connect()])
    expect(results.map(({ isNew }) => isNew)).toEqual([true, false])
    expect((await world.connect()).isNew).toBe(false)
    expect(world.requests.length).toBe(1)
  })

  test('a changed wish replaces the connection, an omitted one does not', async () => {
    const world = new World()
    await world.connect({ dnsMode: 'exclusive' })
    expect((await world.connect({ dnsMode: 'fanout' })).isNew).toBe(false)
    const changed = await world.connect({ interfaceName: 'blue0' })
    expect([changed.isNew, changed.view.interfaceName]).toEqual([true, 'blue0'])
    expect(world.requests.length).toBe(2)
  })

  test('without DNS nothing is attached or looked up', async () => {
    const world = new World()
    await world.connect({ dns: 'off' })
    expect(world.done.filter((line) => /attach|look/.test(line))).toEqual([])
  })

  test('a restarted process sends the last answer, so that the address is taken over', async () => {
    const before = new World()
    await before.connect()
    const after = new World()
    for (const [service, remembered] of before.remembered) after.remembered.set(service, remembered)
    await after.connect()
    expect(after.requests[0]?.connection?.path?.pathSegments[1]?.id).toBe('m-1')
    expect(after.requests[0]?.connection?.context?.ipContext?.srcIpAddrs).toEqual(['10.64.0.1/32'])
  })
})

describe('a connect that waits for another one of the same service', () => {
  test('leaves at once when its caller gives up, and the other goes on', async () => {
    const world = new World()
    world.hanging.add('request')
    const first = new AbortController()
    const second = new AbortController()
    const firstFailed = expect(world.connect({}, first.signal)).rejects.toMatchObject({ message: 'first' })
    const secondFailed = expect(world.connect({}, second.signal)).rejects.toMatchObject({ message: 'second' })
    await settle()
    second.abort(new NsmError('UNREACHABLE', 'second', 'wait'))
    await secondFailed
    expect((await world.connections.views()).length).toBe(1)
    first.abort(new NsmError('UNREACHABLE', 'first', 'wait'))
    await Promise.all([settle().then(() => world.clock.advance(2_000)), firstFailed])
    expect(world.requests.length).toBe(1)
  })
})

describe('a connection that is up', () => {
  test('refreshes with the whole last answer and touches nothing when nothing changed', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    await world.clock.advance(120_000)
    expect(world.done.slice(before)).toEqual(['request'])
    expect(world.requests[1]?.connection?.path?.pathSegments.length).toBe(2)
  })

  test('takes over a new address on refresh by the difference', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      if (connection.context?.ipContext) connection.context.ipContext.srcIpAddrs = ['10.64.0.9/32']
      return connection
    }
    await world.clock.advance(120_000)
    expect(world.done.slice(before)).toContain('update 10.64.0.9/32')
  })

  test('E11: keeps the old state when a refresh would widen its routes, and says so', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      connection.context?.ipContext?.srcRoutes.push({
        $typeName: 'connectioncontext.Route',
        prefix: '0.0.0.0/0',
        nextHop: '',
      })
      return connection
    }
    await world.clock.advance(120_000)
    expect(world.done.slice(before)).toEqual(['request'])
    const [view] = await world.connections.views()
    expect(view).toMatchObject({ state: 'up', routes: ['10.64.0.0/16'], error: { code: 'REFUSED' } })
  })

  test('whose identity is refused says so and how to join again, keeps its routes, and is up once it is believed', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    world.failing.set('request', new NsmError('IDENTITY', 'the root was dropped', 'ask for a new join string'))
    await world.clock.advance(120_000)
    await world.clock.advance(10_000)
    const [view] = await world.connections.views()
    expect(view).toMatchObject({
      state: 'refused',
      routes: ['10.64.0.0/16'],
      error: { code: 'IDENTITY', next: expect.stringMatching(/^ask for .*; to join again: `nsm disconnect`/) },
    })
    expect(new Set(world.done.slice(before))).toEqual(new Set(['request']))
    await expect(world.connect()).rejects.toMatchObject({ code: 'IDENTITY', exitCode: 4 })
    world.failing.clear()
    await world.clock.advance(10_000)
    expect((await world.connections.views())[0]?.state).toBe('up')
  })

  test('that is refused for another reason goes on healing, for that may pass', async () => {
    const world = new World()
    await world.connect()
    world.failing.set('request', new NsmError('REFUSED', 'no endpoint fits', 'wait'))
    await world.clock.advance(130_000)
    expect((await world.connections.views())[0]?.state).toBe('healing')
  })

  test('opens its tunnel anew when that died, and renews', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    world.failTunnel(new NsmError('LOST', 'the device is gone', 'wait'))
    await world.clock.advance(1_000)
    const [view] = await world.connections.views()
    expect(view?.state).toBe('up')
    expect(world.done.slice(before)).toContain('open nsm-blue')
    expect(world.requests[1]?.connection?.state).toBe(State.UP)
  })

  /** Lets packets come in until the connection knows that its endpoint answers. */
  const hear = async (world: World) => {
    world.peer = { ...world.peer, receivedBytes: world.peer.receivedBytes + 28 }
    await world.clock.advance(300)
  }
  const stateOf = async (world: World) => (await world.connections.views())[0]

  test('sets again, once, what was taken from its interface, and nothing after its end', async () => {
    const world = new World()
    await world.connect()
    await world.clock.advance(3_000)
    const before = world.done.length
    const { placed } = world
    world.placed = placed && { ...placed, routes: [] }
    await world.clock.advance(3_000)
    expect(world.placed).toEqual(placed)
    expect(world.done.slice(before)).toEqual(['update 10.64.0.1/32'])
    await world.connections.disconnect([], false)
    await world.clock.advance(3_000)
    expect(world.placed).toBeUndefined()
  })

  test('asks its tunnel nothing while packets come, and how the peer is once two looks found none', async () => {
    const world = new World()
    await world.connect()
    const asked = world.statsAsked
    for (let i = 0; i < 10; i++) await hear(world)
    expect(world.statsAsked).toBe(asked)
    await world.clock.advance(400)
    expect(world.statsAsked).toBeGreaterThan(asked)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
  })

  test('asks its endpoint for a sign of life, and for another endpoint when none comes', async () => {
    const world = new World()
    await world.connect()
    await hear(world)
    const before = world.done.length
    world.hanging.add('request')
    await world.clock.advance(1_500)
    expect(world.echoes.length).toBeGreaterThanOrEqual(3)
    expect(await stateOf(world)).toMatchObject({ state: 'healing', error: { code: 'LOST' } })
    expect(world.done.slice(before)).toEqual(['request'])
    const [, reselect] = world.requests
    expect(reselect?.connection).toMatchObject({ networkServiceEndpointName: '', state: State.RESELECT_REQUESTED })
    expect(reselect?.connection?.mechanism).toBeUndefined()
    expect(reselect?.connection?.context?.ipContext?.srcIpAddrs).toEqual([])
    expect(reselect?.connection?.context?.dnsContext?.configs).toEqual([])
  })

  test('moves to the other endpoint: peer, addresses and names are exchanged', async () => {
    const world = new World()
    await world.connect()
    await hear(world)
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      connection.networkServiceEndpointName = 'blue-2'
      connection.mechanism = wireGuardMechanism(
        { dstIp: '192.0.2.2', dstPort: 51_820, dstPublicKey: new Uint8Array(32).fill(8), mtuBytes: 1_400 },
        request.mechanismPreferences[0],
      )
      if (connection.context?.ipContext) connection.context.ipContext.srcIpAddrs = ['10.64.1.1/32']
      return connection
    }
    const before = world.done.length
    await world.clock.advance(1_500)
    expect(world.done.slice(before).toSorted()).toEqual(
      [
        'attach blue.nsm.internal',
        'fence 10.64.1.1/32 10.64.0.0/32,10.64.0.0/16',
        'handshake',
        'look-up',
        'remove-peer',
        'request',
        'set-peer',
        'update 10.64.1.1/32',
      ].toSorted(),
    )
    expect(await stateOf(world)).toMatchObject({ state: 'up', endpoint: 'blue-2', addresses: ['10.64.1.1/32'] })
  })

  test('an endpoint that never answered an echo is not taken for dead', async () => {
    const world = new World()
    await world.connect()
    await world.clock.advance(60_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
    expect(world.requests.length).toBe(1)
  })

  test('a manager that waits for a dead endpoint is asked anew', async () => {
    const world = new World()
    await world.connect()
    await hear(world)
    const before = world.done.length
    world.hanging.add('request')
    await world.clock.advance(60_000)
    const asked = world.done.slice(before).filter((line) => line === 'request').length
    expect(asked).toBeGreaterThanOrEqual(4)
    expect(asked).toBeLessThanOrEqual(8)
  })

  test('a new endpoint that does not answer is given up soon, for the next one', async () => {
    const world = new World()
    await world.connect()
    await hear(world)
    world.hanging.add('handshake')
    await world.clock.advance(6_000)
    expect(world.requests.length).toBeGreaterThanOrEqual(3)
    world.hanging.clear()
    await world.clock.advance(20_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
  })

  test('E12: an endpoint that changes its mind all the time changes this machine at most six times a minute', async () => {
    const world = new World()
    await world.connect()
    let number = 1
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      number += 1
      if (connection.context?.ipContext) connection.context.ipContext.srcIpAddrs = [`10.64.0.${number}/32`]
      for (const segment of connection.path?.pathSegments ?? []) {
        segment.expires = timestampFromMs(world.clock.nowMs + 1_000)
      }
      return connection
    }
    await world.clock.advance(120_000)
    const before = world.done.filter((line) => line.startsWith('update')).length
    await world.clock.advance(60_000)
    const inAMinute = world.done.filter((line) => line.startsWith('update')).length - before
    expect(world.requests.length).toBeGreaterThan(20)
    expect(inAMinute).toBeLessThanOrEqual(6)
  })

  test('E6: a route that the machine learns later takes no packets of the service, and is said', async () => {
    const world = new World()
    await world.connect()
    const alone = world.host
    world.host = { ...alone, routes: [{ interfaceName: 'wlan0', prefix: '10.64.7.0/24', gateway: undefined }] }
    await world.clock.advance(5_000)
    expect(await stateOf(world)).toMatchObject({
      state: 'up',
      error: { code: 'CONFLICT', message: expect.stringContaining('10.64.7.0/24 (route on wlan0)') },
    })
    await world.clock.advance(120_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
    world.host = alone
    await world.clock.advance(5_000)
    expect((await stateOf(world))?.error).toBeUndefined()
  })

  test('E6: a network that the machine joins later comes first, and the service comes back when it is left', async () => {
    const world = new World()
    await world.connect()
    const alone = world.host
    const before = world.done.length
    world.host = { ...alone, addresses: [...alone.addresses, { interfaceName: 'wlan0', prefix: '10.64.7.2/24' }] }
    await world.clock.advance(1_100)
    expect(world.done.slice(before).slice(0, 2)).toEqual(['update ', 'fence  '])
    expect(await stateOf(world)).toMatchObject({
      state: 'healing',
      error: { code: 'CONFLICT', message: expect.stringContaining('10.64.7.0/24 (address on wlan0)') },
    })
    expect(world.requests[1]?.connection?.context?.ipContext?.excludedPrefixes).toContain('10.64.7.0/24')
    await world.clock.advance(60_000)
    expect(world.requests.length).toBeLessThan(30)
    world.host = alone
    await world.clock.advance(6_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up', addresses: ['10.64.0.1/32'] })
    expect(world.done).toContain('update 10.64.0.1/32')
  })

  test('E7: the fence stands while the tunnel is opened anew, and goes last', async () => {
    const world = new World()
    await world.connect()
    world.failTunnel(new NsmError('LOST', 'the device is gone', 'wait'))
    await world.clock.advance(1_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
    expect(world.done).not.toContain('unfence')
    await world.connections.disconnect([], false)
    expect(world.done.filter((line) => !['close', 'unjournal nsm-blue'].includes(line)).at(-1)).toBe('unfence')
  })

  test('services of one awareness group may overlap, and are not excluded from each other', async () => {
    const world = new World()
    await world.connect()
    const groups = [['kernel://blue', 'kernel://green/nsm-2']]
    world.answer = (request) => {
      const connection = world.ordinaryAnswer(request)
      if (connection.context?.ipContext) connection.context.ipContext.srcIpAddrs = ['10.64.0.2/32']
      return connection
    }
    expect((await world.connect({ service: 'green', dns: 'off', awarenessGroups: groups })).view.state).toBe('up')
    const excluded = world.requests[1]?.connection?.context?.ipContext?.excludedPrefixes
    expect(excluded).toContain('10.64.0.1/32')
    expect(excluded).not.toContain('10.64.0.0/16')
    const stranger = world.connect({ service: 'red', awarenessGroups: groups })
    await expect(stranger).rejects.toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('service blue') })
  })

  test('without a liveness check no echo is sent, and what the manager says counts for the path', async () => {
    const world = new World()
    await world.connect({ livenessEnabled: false })
    await hear(world)
    await world.clock.advance(60_000)
    expect(world.echoes).toEqual([])
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
    world.endMonitor()
    await world.clock.advance(1_000)
    expect(world.requests[1]?.connection?.state).toBe(State.RESELECT_REQUESTED)
  })

  test('a liveness check is as quick as its settings say', async () => {
    const world = new World()
    await world.connect({ livenessIntervalMs: 1_000, livenessTimeoutMs: 5_000 })
    await hear(world)
    await world.clock.advance(4_000)
    expect(await stateOf(world)).toMatchObject({ state: 'up' })
    await world.clock.advance(4_000)
    expect(world.requests[1]?.connection?.state).toBe(State.RESELECT_REQUESTED)
  })

  test('disconnect undoes everything, closes at the manager, forgets the lease and may be repeated', async () => {
    const world = new World()
    await world.connect()
    const before = world.done.length
    expect(await world.connections.disconnect(['blue'], false)).toEqual(['blue'])
    expect(world.done.slice(before)).toEqual(expect.arrayContaining(['close', 'detach', 'unconfigure', 'close-tunnel']))
    expect(world.remembered.get('blue')?.last).toBeUndefined()
    expect(await world.connections.disconnect(['blue'], false)).toEqual([])
    expect(await world.connections.disconnect([], false)).toEqual([])
  })
})
