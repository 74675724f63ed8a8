import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { bundleOfRunning, rotateRunning } from '../../src/daemon/serve-ca.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { parseBundle } from '../../src/identity/bundle-document.ts'
import { identityFromPem } from '../../src/identity/files.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { freePort } from '../support/free-port.ts'
import { startProgram } from './go-process.ts'
import { buildSpire } from './spire.ts'

const run = promisify(execFile)
const isWanted = process.env['NSM_TEST_SPIRE'] === '1'
const title = isWanted
  ? 'federation with SPIRE'
  : 'federation with SPIRE: skipped, it is built on request (NSM_TEST_SPIRE=1)'
const { signal } = new AbortController()
/** As `nsm ca bundle` begins, and far below the hint of either side. */
const patience = { timeout: 120_000, interval: 100 }

/* acme.example is `nsm serve`, peers.test a SPIRE server; each has the other's first bundle from a file. */
describe.skipIf(!isWanted)(title, () => {
  const closers: (() => unknown)[] = []
  let dir: string
  let ports: { readonly api: number; readonly bundle: number; readonly acme: number }
  let spire: (...args: string[]) => Promise<string>

  const settings = () => ({
    ...{ service: 'shared', prefixes: ['10.64.0.0/16'], dnsDomain: 'shared.nsm.internal', trustDomain: 'acme.example' },
    ...{ listen: `127.0.0.1:${ports.acme}`, wireguardPort: 0, policyPath: join(dir, 'policy.yaml') },
    ...{ stateDir: join(dir, 'acme'), runtimeDir: join(dir, 'acme', 'run') },
  })

  beforeAll(async () => {
    const binaries = await buildSpire()
    dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
    closers.push(() => rm(dir, { recursive: true }))
    ports = { api: await freePort(), bundle: await freePort(), acme: await freePort() }
    const socket = join(dir, 'server.sock')
    spire = async (...args) => (await run(binaries.server, [...args, '-socketPath', socket])).stdout
    await mkdir(join(dir, 'server'))
    await writeFile(join(dir, 'server.conf'), serverConfig(dir, ports))
    await writeFile(join(dir, 'policy.yaml'), policy(ports, false))
    const running = await startServe(settings(), silentLog, signal)
    closers.push(() => running.stop())
    const args = ['run', '-config', join(dir, 'server.conf')]
    const server = await startProgram(binaries.server, args, () => spire('healthcheck'))
    closers.push(() => server.stop())
    await writeFile(join(dir, 'acme.json'), await bundleOfRunning(settings()))
    await writeFile(join(dir, 'spire.pem'), await spire('bundle', 'show'))
    await spire('bundle', 'set', '-format', 'spiffe', '-id', 'spiffe://acme.example', '-path', join(dir, 'acme.json'))
    await writeFile(join(dir, 'policy.yaml'), policy(ports, true))
    await running.reload()
  }, 3_600_000)
  afterAll(async () => {
    for (const close of closers.reverse()) await close()
  })

  test('nsm serve takes the bundle from the endpoint of SPIRE, which shows its SVID', async () => {
    const stored = () => readFile(join(dir, 'acme', 'federation.json'), 'utf8')
    // Only the endpoint has keys for JWT-SVIDs; the file of the beginning is PEM.
    await expect.poll(stored, patience).toContain('jwt-svid')
  })

  test('a workload of SPIRE is believed, and reaches the service by its grant', async () => {
    await spire('x509', 'mint', '-spiffeID', 'spiffe://peers.test/gateway', '-write', dir)
    const read = (name: string) => readFile(join(dir, name), 'utf8')
    const pem = { svidPem: await read('svid.pem'), keyPem: await read('key.pem'), bundlePem: await read('bundle.pem') }
    const state = identityFromPem(pem, Date.now())
    const { roots } = parseBundle(await bundleOfRunning(settings()))
    const source = createFixedSource({ ...state, bundles: new Map([...state.bundles, ['acme.example', roots]]) })
    const target = { address: '127.0.0.1', port: ports.acme }
    const channel = openChannel({
      target,
      source,
      clock: systemClock,
      expect: (id) => id === 'spiffe://acme.example/server',
    })
    closers.push(() => channel.close())
    const srcPublicKey = publicKeyOf(generatePrivateKey())
    const mechanism = wireGuardMechanism({ srcIp: '127.0.0.1', srcPort: 51_820, srcPublicKey, mtuBytes: 1_420 })
    const request = { ...firstRequest({ networkService: 'shared' }), mechanismPreferences: [mechanism] }
    const answer = await createNsmClient(channel).request(request, signal)
    expect(answer.context?.ipContext?.srcIpAddrs).toHaveLength(1)
  })

  test('a token that SPIRE signs is believed by a member of ours, for its audience alone', async () => {
    const token = (await spire('jwt', 'mint', '-spiffeID', 'spiffe://peers.test/app', '-audience', 'web')).trim()
    const own = { stateDir: join(dir, 'member'), runtimeDir: join(dir, 'member', 'run'), resolvConf: join(dir, 'none') }
    const sessions = new Sessions({ settings: { ...own, logLevel: 'info' }, clock: systemClock, log: silentLog })
    closers.push(() => sessions.close())
    const { joinString } = await inviteFromRunning(settings(), { ttlMs: 60_000 })
    const { source } = await sessions.open({ joinString }, signal)
    const ask = (audience: string) =>
      source.jwt?.validate({ audience, svid: token }, signal).then(
        ({ spiffeId }) => spiffeId,
        ({ code }) => code,
      )
    await expect.poll(() => ask('web'), patience).toBe('spiffe://peers.test/app')
    expect(await ask('other')).toBe('USAGE')
  })

  test('SPIRE takes our bundle from the port of gRPC, and follows a new root', async () => {
    const known = async () => {
      const text = await spire('bundle', 'list', '-format', 'spiffe', '-id', 'spiffe://acme.example')
      const { roots, jwtKeys } = parseBundle(text)
      expect(jwtKeys).toHaveLength(roots.length)
      return roots.length
    }
    expect(await known()).toBe(1)
    await rotateRunning(settings(), { finish: false, publishMs: 1 })
    await expect.poll(async () => parseBundle(await bundleOfRunning(settings())).roots.length, patience).toBe(2)
    await spire('federation', 'refresh', '-id', 'spiffe://acme.example')
    await expect.poll(known, patience).toBe(2)
    // SPIRE has no member of ours that would have to renew.
    vi.spyOn(systemClock, 'wallMs').mockImplementation(() => Date.now() + 300_000)
    onTestFinished(() => void vi.restoreAllMocks())
    await rotateRunning(settings(), { finish: true })
    await spire('federation', 'refresh', '-id', 'spiffe://acme.example')
    await expect.poll(known, patience).toBe(1)
  })
})

function policy({ bundle }: { readonly bundle: number }, isFederated: boolean): string {
  const spire = `
    - td: peers.test
      bundle:
        profile: https_spiffe
        url: https://127.0.0.1:${bundle}/
        endpoint_id: spiffe://peers.test/spire/server
        bundle_file: spire.pem`
  return `
admission:
  default: deny
  domains:
    - { td: acme.example, bundle: own }${isFederated ? spire : ''}
  grants:
    - { name: gateway, who: spiffe://peers.test/gateway, may: [find, request], services: [shared] }
`
}

function serverConfig(
  dir: string,
  { api, bundle, acme }: { readonly api: number; readonly bundle: number; readonly acme: number },
): string {
  return `
server {
  bind_address = "127.0.0.1"
  bind_port = "${api}"
  socket_path = "${dir}/server.sock"
  trust_domain = "peers.test"
  data_dir = "${dir}/server"
  log_level = "WARN"
  federation {
    bundle_endpoint {
      address = "127.0.0.1"
      port = ${bundle}
      profile "https_spiffe" {}
    }
    federates_with "acme.example" {
      bundle_endpoint_url = "https://127.0.0.1:${acme}/bundle"
      bundle_endpoint_profile "https_spiffe" {
        endpoint_spiffe_id = "spiffe://acme.example/server"
      }
    }
  }
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "${dir}/server/datastore.sqlite3"
    }
  }
  KeyManager "memory" { plugin_data {} }
}
`
}
