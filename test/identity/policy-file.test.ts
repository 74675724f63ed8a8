import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseIssuers } from '../../src/identity/issuers-file.ts'
import { parsePolicyFile } from '../../src/identity/policy-file.ts'

const head = `admission:
  default: deny
  domains:
    - { td: acme.example, bundle: own }
`
const parse = (text: string) => parsePolicyFile(text, 'policy.yaml')
const rules = (text: string) => parse(text).policy.rules

describe('parsePolicyFile', () => {
  test('reads all of what a policy can say', () => {
    const text = `${head}    - { td: globex.example, bundle: { profile: https_spiffe, url: https://spiffe.globex.example/bundle, endpoint_id: spiffe://globex.example/bundle, bundle_file: globex.json } }
    - { td: web.example, bundle: { profile: https_web, url: https://web.example/bundle } }
    - { td: file.example, bundle: { profile: file, path: file.json } }
  grants:
    - name: ci-red
      who: spiffe://acme.example/ci/**
      may: [find, request]
      services: [red]
      limits: { connections: 50, token_lifetime: 10m }
    - { name: db-gw, who: spiffe://globex.example/ns/prod/sa/dbgw, may: [offer, own], services: [partner-db], prefixes: [10.80.0.0/24], dns: [db.Globex.example.] }
    - { name: ops, who: spiffe://acme.example/ops/*, may: [admin] }
  denies:
    - { who: spiffe://acme.example/ci/github/1234/9999/**, reason: runner compromised }
`
    const { domains, grants, denials } = rules(text)
    expect(parse(text).trustDomain).toBe('acme.example')
    expect(domains).toEqual([
      { trustDomain: 'acme.example', bundle: { profile: 'own' } },
      {
        trustDomain: 'globex.example',
        bundle: {
          profile: 'https_spiffe',
          url: 'https://spiffe.globex.example/bundle',
          endpointId: 'spiffe://globex.example/bundle',
          path: 'globex.json',
        },
      },
      { trustDomain: 'web.example', bundle: { profile: 'https_web', url: 'https://web.example/bundle' } },
      { trustDomain: 'file.example', bundle: { profile: 'file', path: 'file.json' } },
    ])
    expect(grants).toMatchObject([
      { name: 'ci-red', line: 9, connectionsMax: 50, tokenLifetimeMs: 600_000 },
      { name: 'db-gw', line: 14, zones: ['db.globex.example'], prefixes: [{ length: 24 }] },
      { name: 'ops', line: 15, services: [] },
    ])
    expect(denials).toMatchObject([{ line: 17, reason: 'runner compromised' }])
  })

  test('reads the same as JSON, and issuers beside it', () => {
    const admission = { default: 'deny', domains: [{ td: 'acme.example', bundle: 'own' }], grants: [] }
    const rule = { name: 'a', match: { sub: 'x' }, id: '/ci/{sub}', ttl: '1h' }
    const issuers = [{ name: 'ci', issuer: 'https://ci.example', rules: [rule] }]
    expect(parse(JSON.stringify({ admission })).issuers).toBeUndefined()
    expect(parse(JSON.stringify({ admission, issuers })).issuers).toMatchObject([
      { name: 'ci', audience: 'nsm://acme.example', rules: [{ ttlMs: 3_600_000 }] },
    ])
  })

  const grant = (more: string) => `${head}  grants:\n    - { name: a, who: spiffe://acme.example/a, ${more} }\n`
  const domain = (more: string) => `${head}    - ${more}\n  grants: []\n`
  test.each([
    ['no policy', '', 'line 1: must be an object'],
    ['no YAML', 'admission: [', 'line 1: '],
    ['another default', head.replace('deny', 'allow'), 'line 2: admission.default must be one of deny'],
    ['no default', head.replace('  default: deny\n', ''), 'line 2: admission lacks default'],
    ['no grants', head, 'admission lacks grants'],
    [
      'an unknown key',
      `${head}  grant: []\n`,
      'line 5: admission.grant is not known; default, domains, grants, denies',
    ],
    [
      'an unknown key of a grant',
      grant('may: [find], services: [red], if: x'),
      'line 6: admission.grants[0].if is not known',
    ],
    ['a key twice', `${head}  grants: []\n  grants: []\n`, 'line 6: Map keys must be unique'],
    ['an action that is none', grant('may: [everything], services: [red]'), 'may[0] must be one of find, request'],
    ['no action', grant('may: [], services: [red]'), 'may is empty'],
    ['no service', grant('may: [find]'), 'lacks services'],
    ['no name of a service', grant('may: [find], services: ["a b"]'), 'must be the name of a service'],
    ['a pattern of services', grant('may: [find], services: ["re*"]'), 'must be the name of a service'],
    ['an owner of everything', grant('may: [own], services: ["*"]'), 'each is owned by itself'],
    ['an offer without bounds', grant('may: [offer], services: [red]'), 'lacks prefixes'],
    [
      'a prefix that is none',
      grant('may: [offer], services: [red], prefixes: [10.0.0.0/33]'),
      'prefixes[0] is refused',
    ],
    [
      'a zone that is none',
      grant('may: [offer], services: [red], prefixes: [], dns: ["a b"]'),
      'dns[0] must be a domain name',
    ],
    ['bounds of nothing', grant('may: [find], services: [red], prefixes: [10.0.0.0/8]'), 'for those who may offer'],
    ['a life of a second', grant('may: [find], services: [red], limits: { token_lifetime: 1s }'), 'at least 10s'],
    ['a life without a unit', grant('may: [find], services: [red], limits: { token_lifetime: 600 }'), 'a time like'],
    ['no connection', grant('may: [find], services: [red], limits: { connections: 0 }'), 'whole number from 1'],
    ['a number for a text', grant('may: [find], services: [1234]'), 'put it into quotes'],
    ['a domain twice', domain('{ td: acme.example, bundle: { profile: file, path: x } }'), 'has a domain twice'],
    ['two own domains', domain('{ td: b.example, bundle: own }'), 'must have one domain with `bundle: own`'],
    [
      'no own domain',
      `${head.replace('own', '{ profile: file, path: x }')}  grants: []\n`,
      'must have one domain with',
    ],
    ['an upper-case domain', domain('{ td: Globex.example, bundle: { profile: file, path: x } }'), 'no trust domain'],
    [
      'plain http',
      domain('{ td: b.example, bundle: { profile: https_web, url: "http://b.example/" } }'),
      'must be an https URL',
    ],
    [
      'a user in a URL',
      domain('{ td: b.example, bundle: { profile: https_web, url: "https://a@b.example/" } }'),
      'must be an https URL',
    ],
    [
      'a key of another profile',
      domain('{ td: b.example, bundle: { profile: https_web, url: "https://b.example/", endpoint_id: x } }'),
      'endpoint_id is not known',
    ],
    [
      'a pattern as endpoint',
      domain(
        '{ td: b.example, bundle: { profile: https_spiffe, url: "https://b.example/", endpoint_id: "spiffe://b.example/**" } }',
      ),
      'no pattern',
    ],
    ['an alias', `x: &a 1\n${head}  grants: []\n`, 'anchor'],
    ['a tag', grant('may: !!set [find], services: [red]'), 'tag'],
  ])('refuses %s, with line and what is allowed', (_what, text, message) => {
    expect(() => parse(text)).toThrow(
      expect.objectContaining({ code: 'USAGE', message: expect.stringContaining(message) }),
    )
  })

  test.each([
    'spiffe://Acme.example/a',
    'spiffe://acme.example',
    'spiffe://acme.example/',
    'spiffe://*/a',
    'spiffe://acme.*/a',
    'spiffe://acme.example/ci-*',
    'spiffe://acme.example/**/a',
    'spiffe://acme.example/a//b',
    'spiffe://acme.example/../a',
    'spiffe://acme.example/a?b',
    'acme.example/a',
    '**',
  ])('refuses %s as somebody, with its line', (who) => {
    const text = `${head}  grants:\n    - name: a\n      who: "${who}"\n      may: [find]\n      services: [red]\n`
    expect(() => parse(text)).toThrow(/policy\.yaml line 7: admission\.grants\[0\]\.who is refused/)
  })

  test('refuses a second owner of a name and a second grant of a name, with both lines', () => {
    const owner = (name: string, line: string) =>
      `    - { name: ${name}, who: spiffe://acme.example/${line}, may: [own], services: [red] }\n`
    expect(() => parse(`${head}  grants:\n${owner('a', 'x')}${owner('b', 'y')}`)).toThrow(
      /line 7: .*owns red, as a in line 6/,
    )
    expect(() => parse(`${head}  grants:\n${owner('a', 'x')}${owner('a', 'y').replace('own', 'find')}`)).toThrow(
      /line 7: .*name of the grant in line 6/,
    )
  })

  test('is total: a policy or USAGE, for any bytes and any change of a good file', () => {
    const good = `${head}  grants:\n    - { name: a, who: spiffe://acme.example/a, may: [find], services: [red] }\n`
    const changed = fc
      .tuple(fc.nat(good.length), fc.string({ maxLength: 6 }))
      .map(([at, text]) => good.slice(0, at) + text + good.slice(at + 3))
    fc.assert(
      fc.property(fc.oneof(fc.string(), changed), (text) => {
        try {
          parse(text)
        } catch (error) {
          expect(error).toMatchObject({ code: 'USAGE' })
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('a file that is cut off anywhere never grants what it does not say', () => {
    const text = `${head}  grants:\n    - { name: a, who: spiffe://acme.example/a, may: [find], services: [red] }\n  denies:\n    - { who: spiffe://acme.example/a, reason: x }\n`
    const whole = rules(text)
    for (let length = 0; length < text.length; length++) {
      try {
        for (const grant of rules(text.slice(0, length)).grants) expect(whole.grants).toContainEqual(grant)
      } catch (error) {
        expect(error).toMatchObject({ code: 'USAGE' })
      }
    }
  })

  test('__proto__ and constructor are keys like any other, and known to nobody', () => {
    for (const key of ['__proto__', 'constructor', 'toString']) {
      expect(() => parse(`{ "admission": {}, "${key}": {} }`)).toThrow(new RegExp(`${key} is not known`))
    }
  })
})

describe('the documentation', () => {
  const docs = resolve(import.meta.dirname, '../../docs')

  test('shows an example that is a policy, with every key', () => {
    const text = readFileSync(resolve(docs, 'policy.example.yaml'), 'utf8')
    const { policy, issuers } = parsePolicyFile(text, 'policy.example.yaml')
    expect([policy.rules.grants.length, policy.rules.denials.length, issuers?.length]).toEqual([4, 1, 1])
  })

  test('shows policies and issuers that can be read', () => {
    const blocks = readFileSync(resolve(docs, 'identity.md'), 'utf8').matchAll(/```(?:json|yaml)[^\n]*\n(.*?)```/gs)
    const texts = [...blocks].map(([, text = '']) => text)
    const policies = texts.filter((text) => text.startsWith('admission:'))
    const issuers = texts.filter((text) => text.includes('"issuers"'))
    for (const text of policies) expect(parsePolicyFile(text, 'identity.md').policy.rules.grants).not.toEqual([])
    for (const text of issuers) expect(parseIssuers(text, 'identity.md', 'acme.example')).not.toEqual([])
    expect([policies.length > 0, issuers.length > 0]).toEqual([true, true])
  })
})
