import type {
  DnsQuery,
  DnsQueryResult,
  DnsStatusResult,
  DnsTraceResult,
  ScopeFigures,
} from '../../src/daemon/dns-protocol.ts'
import type { DnsServeHandle, DnsServeSettings } from '../../src/daemon/dns-serve.ts'

const noDrops = { short: 0, response: 0, opcode: 0, malformed: 0, 'edns-version': 0, signed: 0, class: 0 }

/** Figures of a scope that had three races: two within 2 ms, one within 50 ms. */
export const someFigures: ScopeFigures = {
  queries: 5,
  cacheHits: 2,
  joined: 0,
  won: { service: 2, host: 1, nobody: 0 },
  latency: [
    { upToMs: 1, count: 0 },
    { upToMs: 2, count: 2 },
    { upToMs: 50, count: 1 },
  ],
}

/** A resolver with one scope of each price. */
export const dnsStatus: DnsStatusResult = {
  apiVersion: 'nsm/dns-status/v1',
  resolver: {
    listening: '127.0.0.55:53',
    system: { method: 'resolved', why: 'programs ask systemd-resolved 252' },
    scopes: [
      {
        suffix: 'corp.example',
        mode: 'fanout',
        servers: ['10.64.0.1'],
        hostServers: ['192.168.1.1'],
        figures: someFigures,
      },
      { suffix: 'own.example', mode: 'exclusive', servers: ['10.64.0.1'], hostServers: [], figures: someFigures },
    ],
    others: { servers: [], hostServers: ['192.168.1.1'], figures: { ...someFigures, latency: [] } },
    upstreams: [
      {
        address: '10.64.0.1',
        port: 53,
        roundTripMs: 1.5,
        suspect: true,
        sent: 3,
        replies: 2,
        rejected: 1,
        otherCase: 0,
        silences: 1,
        unreachable: 0,
      },
    ],
    counters: {
      queries: 12,
      cacheHits: 4,
      joined: 1,
      unreachable: 1,
      drops: {
        ...noDrops,
        malformed: 2,
        'meta-type': 0,
        probe: 0,
        'in-flight': 0,
        'per-client': 0,
        'no-server': 0,
        'foreign-peer': 1,
      },
    },
    cache: { entries: 3, bytes: 2_048 },
  },
}

/** A race that a service won over a slower resolver of the host, and one that was not asked. */
export const dnsTrace: DnsTraceResult = {
  apiVersion: 'nsm/dns-trace/v1',
  name: 'db.corp.example',
  type: 'A',
  answeredBy: 'upstreams',
  inCache: true,
  tookMs: 1.5,
  answer: {
    rcode: 'NOERROR',
    flags: ['qr', 'rd', 'ra'],
    answers: [{ name: 'db.corp.example', type: 'A', ttlSeconds: 60, data: '10.64.0.9' }],
    authority: [],
  },
  hops: [
    {
      name: 'db.corp.example',
      scope: 'corp.example',
      mode: 'fanout',
      tookMs: 1.5,
      contestants: [
        {
          server: '10.64.0.1',
          side: 'service',
          won: true,
          said: 'positive',
          reply: {
            rcode: 'NOERROR',
            flags: ['qr'],
            answers: [{ name: 'db.corp.example', type: 'A', ttlSeconds: 60, data: '10.64.0.9' }],
            authority: [],
          },
          askedAfterMs: 0,
          answeredAfterMs: 1.5,
          sends: 1,
          detours: ['tcp'],
          why: 'first positive answer',
        },
        {
          server: '192.168.1.1',
          side: 'host',
          won: false,
          said: 'failure',
          reply: { rcode: 'SERVFAIL', flags: ['qr'], answers: [], authority: [] },
          askedAfterMs: 0,
          answeredAfterMs: 20,
          sends: 1,
          detours: [],
          why: 'does not know',
        },
        { server: '192.168.1.2', side: 'host', won: false, said: 'not-asked', sends: 0, detours: [], why: 'not asked' },
      ],
    },
  ],
}

/** The answer to every query. */
export const dnsAnswer: DnsQueryResult = {
  apiVersion: 'nsm/dns-query/v1',
  server: '127.0.0.55',
  name: 'db.corp.example',
  type: 'A',
  overTcp: false,
  rcode: 'NXDOMAIN',
  flags: ['qr', 'ra'],
  answers: [],
  authority: [{ name: 'corp.example', type: 'SOA', ttlSeconds: 5, data: 'ns host 1 2 3 4 5' }],
  extendedError: 22,
  tookMs: 2.5,
  bytes: 90,
}

type Answer = <T>(name: string, value: T, request?: unknown) => Promise<T>

/** The DNS side of the background process. */
export function fakeDnsApi(answer: Answer) {
  return {
    dnsStatus: () => answer('dnsStatus', dnsStatus),
    dnsTrace: (request: { readonly name: string; readonly type: string }) => answer('dnsTrace', dnsTrace, request),
    dnsFlush: () => answer('dnsFlush', { apiVersion: 'nsm/dns-flush/v1', forgotten: 3 } as const),
  }
}

/** The DNS side of the process around a command; `hangups` are the actions of SIGHUP. */
export function fakeDnsContext(answer: Answer, hangups: (() => void)[]) {
  return {
    onHangup: (action: () => void) => void hangups.push(action),
    queryDns: (query: DnsQuery) => answer('queryDns', dnsAnswer, query),
    startDnsServe: (settings: DnsServeSettings) => answer('startDnsServe', fakeResolver(answer), settings),
  }
}

function fakeResolver(answer: Answer): DnsServeHandle {
  const { resolver } = dnsStatus
  if (!resolver) throw new TypeError('the double has a resolver')
  return {
    listening: '127.0.0.1:5300',
    reload: (settings) => void answer('reload', undefined, settings),
    status: () => resolver,
    stop: () => answer('stop', undefined),
  }
}
