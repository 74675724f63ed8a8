import { randomUUID } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Authority, createAuthority } from '../../src/identity/ca.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { createFixedSource, type FixedSource } from '../../src/identity/fixed-source.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'
import { type Admission, openAdmission } from '../../src/nsm/admission.ts'
import { type Channel, openChannel, type Target } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { type Connection, ConnectionSchema, MechanismSchema } from '../../src/nsm/generated/connection_pb.js'
import { ConnectionContextSchema } from '../../src/nsm/generated/connectioncontext_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import type { MethodBinding } from '../../src/nsm/grpc.ts'
import { startPath } from '../../src/nsm/path.ts'
import { type NsmServer, startNsmServer } from '../../src/nsm/server.ts'

/** A trust domain with its authority; identities and servers of it are closed by `close`. */
export class TestMesh {
  readonly authority: Authority
  readonly clock: Clock
  readonly #closers: (() => unknown)[] = []

  constructor(trustDomain = 'test.internal', clock: Clock = systemClock) {
    this.clock = clock
    this.authority = createAuthority({ trustDomain, clock })
  }

  /** A fresh state for an ID, with a new key. */
  issue(path: string, ttlMs = 3_600_000) {
    const key = generateKey()
    const spiffeId = `spiffe://${this.authority.trustDomain}${path}`
    const issued = this.authority.issueForKey({ ...verifyCsr(createCsr(key)), spiffeId, ttlMs })
    return stateFromIssued(issued, key, this.clock.wallMs())
  }

  source(path: string, ttlMs?: number): FixedSource {
    return createFixedSource(this.issue(path, ttlMs), this.clock)
  }

  async serve(
    services: readonly MethodBinding[],
    source = this.source('/manager'),
    admission: Admission = openAdmission({}),
  ): Promise<NsmServer> {
    const listen = { address: '127.0.0.1', port: 0 }
    const server = await startNsmServer({ source, listen, services, admission, clock: this.clock, log: silentLog })
    this.onClose(() => server.stop())
    return server
  }

  channel(target: Target, source = this.source('/client')): Channel {
    const channel = openChannel({ target, source, clock: this.clock })
    this.onClose(() => channel.close())
    return channel
  }

  client(target: Target, path = '/client') {
    return createNsmClient(this.channel(target, this.source(path)))
  }

  onClose(closer: () => unknown): void {
    this.#closers.push(closer)
  }

  async close(): Promise<void> {
    for (const closer of this.#closers.splice(0).reverse()) await closer()
  }
}

/** A first request as a client makes it. */
export function firstRequest(
  change: Partial<Connection> = {},
  name = `client-${randomUUID().slice(0, 8)}`,
): NetworkServiceRequest {
  const id = `${name}-0`
  const initial = create(ConnectionSchema, {
    id,
    networkService: 'net',
    payload: 'IP',
    labels: { podName: name },
    path: startPath(name, id),
    context: create(ConnectionContextSchema, { ipContext: {}, dnsContext: {} }),
  })
  const connection = Object.assign(initial, change)
  const parameters = { src_ip: '127.0.0.1', src_port: '51820' }
  return create(NetworkServiceRequestSchema, {
    connection,
    mechanismPreferences: [create(MechanismSchema, { cls: 'REMOTE', type: 'WIREGUARD', parameters })],
  })
}

/** A clock that moves only when it is told to; it starts at the machine's time, for TLS looks at that one. */
export class FakeClock implements Clock {
  #nowMs = Date.now()
  readonly #timers = new Set<{ readonly atMs: number; readonly action: () => void }>()

  monotonicMs(): number {
    return this.#nowMs
  }

  wallMs(): number {
    return this.#nowMs
  }

  after(delayMs: number, action: () => void): () => void {
    const timer = { atMs: this.#nowMs + Math.max(0, delayMs), action }
    this.#timers.add(timer)
    return () => void this.#timers.delete(timer)
  }

  /** Moves the time on and runs what is due, in order. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms
    for (;;) {
      const [next] = [...this.#timers].filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)
      if (!next) break
      this.#timers.delete(next)
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.action()
    }
    this.#nowMs = endMs
  }
}
