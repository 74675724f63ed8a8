import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseIdPattern } from '../../src/identity/id-pattern.ts'
import { createPolicy, decide, isAdmitted, type PolicyAction, policyActions } from '../../src/identity/policy.ts'
import { policyOf } from '../support/policy.ts'

const own = { td: 'acme.example' }
const idOf = (path: string) => `spiffe://acme.example${path}`
const to = (who: string, service = 'red') => ({ who, may: ['request'], services: [service] })

/** Whether somebody may request red, and else why not. */
function asks(policy: ReturnType<typeof policyOf>, id: string, service = 'red') {
  const decision = decide(policy, { id, action: 'request', service })
  return decision.isGranted ? decision.grant?.name : decision.reason
}

describe('decide', () => {
  test.each([
    ['a literal path', '/ci/a', '/ci/a', true],
    ['another path', '/ci/a', '/ci/b', false],
    ['a path prefix trick', '/ci/**', '/ci-evil/a', false],
    ['a path prefix trick on a literal', '/ci', '/ci-evil', false],
    ['** below its place', '/ci/**', '/ci/a/b/c', true],
    ['** never its own place', '/ci/**', '/ci', false],
    ['** at the root', '/**', '/a', true],
    ['** at the root, deep', '/**', '/a/b/c', true],
    ['** at the root, without a path', '/**', '', false],
    ['* for one segment', '/ci/*', '/ci/a', true],
    ['* never for two', '/ci/*', '/ci/a/b', false],
    ['* never for none', '/ci/*', '/ci', false],
    ['* in the middle', '/ns/*/sa/gw', '/ns/prod/sa/gw', true],
    ['* in the middle of another', '/ns/*/sa/gw', '/ns/prod/sb/gw', false],
    ['* before **', '/*/**', '/a/b/c', true],
    ['* before ** with nothing behind', '/*/**', '/a', false],
    ['another case of the path', '/ci/a', '/CI/a', false],
    ['a trailing slash', '/ci/a', '/ci/a/', false],
    ['dots', '/ci/**', '/ci/../ops', false],
  ])('compares %s', (_what, who, path, isGranted) => {
    const policy = policyOf({ ...own, grants: [to(idOf(who))] })
    expect(decide(policy, { id: idOf(path), action: 'request', service: 'red' }).isGranted).toBe(isGranted)
  })

  test.each([
    ['wrong domain, same path', 'spiffe://globex.example/ci/a', 'UNKNOWN_DOMAIN'],
    ['a domain that ends in ours', 'spiffe://evil.acme.example/ci/a', 'UNKNOWN_DOMAIN'],
    ['a domain that begins with ours', 'spiffe://acme.example.evil/ci/a', 'UNKNOWN_DOMAIN'],
    ['an upper-case domain', 'spiffe://ACME.example/ci/a', 'ID_INVALID'],
    ['an ID with a query', 'spiffe://acme.example/ci/a?x', 'ID_INVALID'],
    ['no ID', '', 'ID_INVALID'],
  ])('refuses %s', (_what, id, reason) => {
    expect(asks(policyOf({ ...own, grants: [to(idOf('/**'))] }), id)).toBe(reason)
  })

  test('a deny wins over every grant, and names its line', () => {
    const policy = policyOf({
      ...own,
      grants: [to(idOf('/ci/**')), to(idOf('/ci/bad'))],
      denies: [{ who: idOf('/ci/bad'), reason: 'compromised' }],
    })
    expect([asks(policy, idOf('/ci/good')), asks(policy, idOf('/ci/bad'))]).toEqual(['grant-0', 'DENIED'])
    const denied = decide(policy, { id: idOf('/ci/bad'), action: 'request', service: 'red' })
    expect(denied).toMatchObject({ line: policy.rules.denials[0]?.line })
  })

  test('the first grant of the file that fits decides, wherever it is in the tree', () => {
    const grants = [to(idOf('/a/*'), 'blue'), to(idOf('/a/**')), to(idOf('/a/b')), to(idOf('/*/b'))]
    const policy = policyOf({ ...own, grants })
    expect([asks(policy, idOf('/a/b')), asks(policy, idOf('/c/b')), asks(policy, idOf('/a/b'), 'blue')]).toEqual([
      'grant-1',
      'grant-3',
      'grant-0',
    ])
  })

  test('"*" means the services here, and of another domain only where the domain is written', () => {
    const policy = policyOf({ ...own, grants: [to(idOf('/a'), '*'), to(idOf('/b'), '*@globex.example')] })
    const answers = ['red', 'red@globex.example', 'red@evil.example', '*', '', '*@globex.example']
    expect(answers.map((service) => asks(policy, idOf('/a'), service) === 'grant-0')).toEqual([
      true,
      false,
      false,
      false,
      false,
      false,
    ])
    expect(answers.map((service) => asks(policy, idOf('/b'), service) === 'grant-1')).toEqual([
      false,
      true,
      false,
      false,
      false,
      false,
    ])
  })

  test('a grant is for its actions alone', () => {
    const policy = policyOf({ ...own, grants: [{ who: idOf('/a'), may: ['find', 'admin'], services: ['red'] }] })
    const granted = policyActions.filter(
      (action) => decide(policy, { id: idOf('/a'), action, service: 'red' }).isGranted,
    )
    expect(granted).toEqual(['find', 'admin'])
  })

  test('without a service it is asked whether there is any', () => {
    const policy = policyOf({ ...own, grants: [to(idOf('/a'))] })
    const any = (action: PolicyAction) => decide(policy, { id: idOf('/a'), action }).isGranted
    expect([any('request'), any('relay')]).toEqual([true, false])
  })
})

/* The reference: every line in turn, by a regular expression of its pattern. */

const trustDomain = fc.constantFrom('acme.example', 'globex.example', 'other.example')
const segment = fc.constantFrom('a', 'b', 'ci', 'ci-evil')
const path = fc.array(segment, { minLength: 0, maxLength: 4 }).map((parts) => parts.map((part) => `/${part}`).join(''))
const pattern = fc
  .tuple(trustDomain, fc.array(fc.oneof(segment, fc.constant('*')), { maxLength: 3 }), fc.boolean())
  .filter(([, parts, isOpen]) => parts.length > 0 || isOpen)
  .map(([td, parts, isOpen]) => `spiffe://${td}/${[...parts, ...(isOpen ? ['**'] : [])].join('/')}`)
const serviceName = fc.constantFrom<string>('red', 'blue', 'red@globex.example')
const action = fc.constantFrom(...policyActions)
const grant = fc.record({
  who: pattern,
  may: fc.uniqueArray(action, { minLength: 1, maxLength: 3 }),
  services: fc.uniqueArray(fc.oneof(serviceName, fc.constantFrom<string>('*', '*@globex.example')), { minLength: 1 }),
})
const question = fc.record({
  id: fc.tuple(trustDomain, path).map(([td, rest]) => `spiffe://${td}${rest}`),
  action,
  service: serviceName,
})

type Line = typeof grant extends fc.Arbitrary<infer T> ? T : never

function fits(who: string, id: string): boolean {
  const source = who
    .split('/')
    .map((part) => (part === '**' ? '[^/]+(/[^/]+)*' : part === '*' ? '[^/]+' : part.replaceAll('.', '\\.')))
  return new RegExp(`^${source.join('/')}$`).test(id)
}

function naive(
  rules: { readonly domains: readonly string[]; readonly grants: readonly Line[]; readonly denies: readonly string[] },
  asked: { readonly id: string; readonly action: PolicyAction; readonly service: string },
): string {
  const [, , domain = ''] = asked.id.split('/')
  if (!rules.domains.includes(domain)) return 'UNKNOWN_DOMAIN'
  if (rules.denies.some((who) => fits(who, asked.id))) return 'DENIED'
  const at = asked.service.indexOf('@')
  const all = at < 0 ? '*' : `*${asked.service.slice(at)}`
  const found = rules.grants.findIndex(({ who, may, services }) => {
    const isService = asked.action === 'admin' || services.includes(asked.service) || services.includes(all)
    return fits(who, asked.id) && may.includes(asked.action) && isService
  })
  return found < 0 ? 'NOT_GRANTED' : `grant-${found}`
}

test('decide answers as a naive reading of the lines does, for 10,000 random policies and questions', () => {
  const rules = fc.record({
    domains: fc.uniqueArray(trustDomain, { minLength: 1 }),
    grants: fc.array(grant, { maxLength: 8 }),
    denies: fc.array(pattern, { maxLength: 2 }),
  })
  let granted = 0
  fc.assert(
    fc.property(rules, question, (lines, asked) => {
      const policy = createPolicy({
        domains: lines.domains.map((td) => ({ trustDomain: td, bundle: { profile: 'own' } })),
        grants: lines.grants.map(({ who, ...line }, at) => ({
          ...line,
          ...{ name: `grant-${at}`, line: at, who: parseIdPattern(who), prefixes: [], zones: [] },
        })),
        denials: lines.denies.map((who, line) => ({ who: parseIdPattern(who), reason: 'x', line })),
      })
      const decision = decide(policy, asked)
      const said = decision.isGranted ? decision.grant?.name : decision.reason
      if (decision.isGranted) granted++
      expect(said).toBe(naive(lines, asked))
      const any = lines.grants.flatMap(({ may, services }) =>
        may.flatMap((one) => services.map((s) => [one, s] as const)),
      )
      const isAny = any.some(([one, service]) => naive(lines, { ...asked, action: one, service }).startsWith('grant-'))
      expect(isAdmitted(policy, asked.id)).toBe(isAny)
    }),
    { numRuns: 10_000 },
  )
  // The generator reaches both answers.
  expect(granted).toBeGreaterThan(100)
})
