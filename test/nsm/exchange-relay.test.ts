import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { holdJwtBundles } from '../../src/identity/jwt-bundles.ts'
import { watchBundles } from '../../src/nsm/exchange.ts'
import { relayedIdentityService } from '../../src/nsm/exchange-relay.ts'
import { TestMesh } from './mesh.ts'

test('relayedIdentityService tells no bundles before the first site has told its keys, then both', async () => {
  const mesh = new TestMesh('a.test')
  onTestFinished(() => mesh.close())
  const held = holdJwtBundles()
  const waits = Promise.withResolvers<void>()
  const keys = {
    current: held.current,
    onChange(listener: () => void) {
      waits.resolve()
      return held.onChange(listener)
    },
  }
  // The channel to the first site is not used here.
  const channel = mesh.channel({ address: '127.0.0.1', port: 1 })
  const services = relayedIdentityService({ source: mesh.source('/site'), keys, channel, clock: systemClock })
  const stream = watchBundles(mesh.channel(await mesh.serve(services)))
  const first = stream.next()
  await waits.promise
  held.set(mesh.authority.jwtBundles)
  const { value } = await first
  expect([value?.bundles.size, value?.jwtBundles.size]).toEqual([1, 1])
  await stream.return()
})
