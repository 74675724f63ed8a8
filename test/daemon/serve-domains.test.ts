import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { listServices } from '../../src/daemon/list-services.ts'
import { type RunningServe, startServe } from '../../src/daemon/serve.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { scratchDir } from '../support/scratch.ts'

const { signal } = new AbortController()
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** `nsm serve` on the loopback, with a trust domain and service of its own. */
async function serve(service: string): Promise<RunningServe> {
  const dir = await scratchDir()
  const running = await startServe(
    {
      ...{ service, prefixes: ['10.64.0.0/16'], dnsDomain: `${service}.nsm.internal`, trustDomain: `${service}.test` },
      ...{ listen: '127.0.0.1:0', wireguardPort: 0, stateDir: dir, runtimeDir: join(dir, 'run') },
    },
    silentLog,
    signal,
  )
  closers.push(() => running.stop())
  return running
}

async function memberOf({ joinString }: RunningServe) {
  const dir = await scratchDir()
  const settings = { stateDir: dir, runtimeDir: join(dir, 'run'), logLevel: 'info' as const, resolvConf: '/nowhere' }
  const sessions = new Sessions({ settings, clock: systemClock, log: silentLog })
  closers.push(() => sessions.close())
  return sessions.open({ joinString }, signal)
}

const ask = (networkService: string) => ({
  ...firstRequest({ networkService }),
  mechanismPreferences: [
    wireGuardMechanism({
      srcIp: '127.0.0.1',
      srcPort: 51_820,
      srcPublicKey: publicKeyOf(generatePrivateKey()),
      mtuBytes: 1_420,
    }),
  ],
})

test('nsm serve takes its trust domain for its own: blue@blue.test is blue', async () => {
  const { client, registry } = await memberOf(await serve('blue'))
  const answer = await client.request(ask('blue@blue.test'), signal)
  expect(answer).toMatchObject({
    networkService: 'blue@blue.test',
    networkServiceEndpointName: 'blue-vl3@blue.test',
    path: { pathSegments: [{}, { name: 'nsm-manager.blue.test' }, { name: 'blue-vl3' }] },
  })
  await client.close(answer, signal)
  expect(await registry.findEndpoints({ networkServiceNames: ['blue@blue.test'] })).toMatchObject([
    { name: 'blue-vl3@blue.test' },
  ])
})

test('nsm list shows the own domain under its names', async () => {
  const session = await memberOf(await serve('blue'))
  const { services } = await listServices(session, { pattern: 'bl*@blue.test' }, signal)
  expect(services).toMatchObject([{ name: 'blue@blue.test', endpoints: [{ name: 'blue-vl3@blue.test' }] }])
  expect((await listServices(session, { pattern: 'red*@blue.test' }, signal)).services).toEqual([])
})

test('nsm serve tells its member what two domains need that do not trust each other', async () => {
  const { port } = (await serve('red')).info
  const { client } = await memberOf(await serve('blue'))
  await expect(client.request(ask(`red@//127.0.0.1:${port}`), signal)).rejects.toMatchObject({
    code: 'IDENTITY',
    message: expect.stringContaining('do not trust each other'),
  })
})

test('nsm serve does not ask itself under another name', async () => {
  const blue = await serve('blue')
  const { client } = await memberOf(blue)
  await expect(client.request(ask(`blue@//127.0.0.1:${blue.info.port}`), signal)).rejects.toMatchObject({
    code: 'IDENTITY',
  })
})
