import { describe, expect, test } from 'vitest'
import { parseIssuers } from '../../src/identity/issuers-file.ts'
import { issuerOfFlags } from '../../src/identity/oidc-issuers.ts'

const rule = { name: 'deploy', match: { repository_id: '5678' }, id: '/ci/github/{repository_id}' }
const issuer = { name: 'github', issuer: 'https://token.actions.githubusercontent.com', rules: [rule] }

function parse(...issuers: unknown[]) {
  return parseIssuers(JSON.stringify({ issuers }), 'issuers.json', 'acme.example')
}

describe('parseIssuers', () => {
  test('fills in what is left out', () => {
    expect(parse(issuer)).toEqual([
      {
        name: 'github',
        url: issuer.issuer,
        audience: 'nsm://acme.example',
        algorithms: ['RS256', 'ES256', 'PS256'],
        tokenAgeMaxMs: 600_000,
        rules: [
          {
            name: 'deploy',
            match: { repository_id: ['5678'] },
            id: '/ci/github/{repository_id}',
            ttlMs: 3_600_000,
            sessionMs: 43_200_000,
          },
        ],
      },
    ])
  })

  test('takes lists of values, bounds and an audience', () => {
    const full = { ...rule, match: { event_name: ['push', 'tag'] }, ttl: '60s', max_session: '10m' }
    const [parsed] = parse({
      ...issuer,
      audience: 'x',
      algorithms: ['ES384'],
      max_token_age: '30s',
      rules: [full],
    })
    expect(parsed).toMatchObject({ audience: 'x', algorithms: ['ES384'], tokenAgeMaxMs: 30_000 })
    expect(parsed?.rules[0]).toMatchObject({
      ttlMs: 60_000,
      sessionMs: 600_000,
      match: { event_name: ['push', 'tag'] },
    })
  })

  test('takes an issuer at which people log in; its tokens are for the client', () => {
    const [people] = parse({ ...issuer, client_id: 'nsm-cli', scopes: ['openid', 'groups'] })
    expect(people).toMatchObject({ audience: 'nsm-cli', login: { clientId: 'nsm-cli', scopes: ['openid', 'groups'] } })
    expect(parse({ ...issuer, client_id: 'nsm-cli' })[0]?.login?.scopes).toEqual(['openid'])
  })

  const withRule = (change: object) => ({ ...issuer, rules: [{ ...rule, ...change }] })
  test.each([
    ['an unknown key', { ...issuer, pin: 1 }, 'issuers[0].pin'],
    ['an unknown key of a rule', withRule({ regex: 'x' }), 'rules[0].regex'],
    ['a shared secret', { ...issuer, algorithms: ['HS256'] }, 'algorithms'],
    ['no signature', { ...issuer, algorithms: ['none'] }, 'algorithms'],
    ['plain HTTP', { ...issuer, issuer: 'http://login.acme.example' }, 'https'],
    ['plain HTTP to a name of this machine', { ...issuer, issuer: 'http://localhost:1' }, 'https'],
    ['a URL with a user', { ...issuer, issuer: 'https://a@b.example' }, 'https'],
    ['a URL with a query', { ...issuer, issuer: 'https://b.example/?a=1' }, 'https'],
    ['no rules', { ...issuer, rules: [] }, 'rules is empty'],
    ['a rule that matches everything', withRule({ match: {} }), 'every token'],
    ['a rule without values', withRule({ match: { a: 5 } }), 'match.a'],
    ['an ID of the server', withRule({ id: '/server/{sub}' }), "server's own"],
    ['an ID of a site', withRule({ id: '/site/{sub}' }), "server's own"],
    ['an ID of an invited member', withRule({ id: '/member/{sub}' }), "server's own"],
    ['an ID that a claim alone decides', withRule({ id: '/{sub}' }), 'a word first'],
    ['a claim that is a part of a segment', withRule({ id: '/ci/{a}-{b}' }), 'whole segment'],
    ['an ID without a slash', withRule({ id: 'ci/{sub}' }), 'whole segment'],
    ['an ID with dots', withRule({ id: '/ci/../server' }), 'whole segment'],
    ['a life of days', withRule({ ttl: '24h1s' }), '.ttl'],
    ['scopes without a client', { ...issuer, scopes: ['openid'] }, 'client_id'],
    ['a client without openid', { ...issuer, client_id: 'a', scopes: ['email'] }, 'openid'],
    ['a life without a unit', withRule({ ttl: 3600 }), '.ttl'],
  ])('refuses %s', (_what, entry, place) => {
    const parsing = () => parse(entry)
    expect(parsing).toThrow(expect.objectContaining({ code: 'USAGE', message: expect.stringContaining(place) }))
  })

  test('takes YAML too', () => {
    const yaml =
      'issuers:\n  - name: a\n    issuer: https://a.example\n    rules:\n      - { name: r, match: { x: "1" }, id: "/ci/{x}", ttl: 90s }\n'
    expect(parseIssuers(yaml, 'issuers.yaml', 'a.example')[0]?.rules[0]).toMatchObject({ ttlMs: 90_000 })
  })

  test('refuses text that is no object, with file and line', () => {
    for (const text of ['{issuers: [', '[]', 'issuers', '']) {
      const parsing = () => parseIssuers(text, 'issuers.json', 'a.example')
      expect(parsing, text).toThrow(
        expect.objectContaining({ code: 'USAGE', message: expect.stringContaining('issuers.json line 1:') }),
      )
    }
  })

  test('refuses two issuers that could name the same machine', () => {
    const other = (id: string) => ({ name: 'gitlab', issuer: 'https://gitlab.example', rules: [{ ...rule, id }] })
    for (const id of ['/ci/github/{project_id}', '/ci/{a}/{b}', '/ci/github/5/{x}', '/ci/github/5']) {
      expect(() => parse(issuer, other(id)), id).toThrow(expect.objectContaining({ code: 'USAGE' }))
    }
    expect(parse(issuer, other('/ci/gitlab/{project_id}'))).toHaveLength(2)
    expect(() => parse(issuer, { ...other('/b/{x}'), name: 'github' })).toThrow(/name twice/)
    expect(() => parse(issuer, { ...other('/b/{x}'), issuer: issuer.issuer })).toThrow(/url twice/)
  })
})

describe('issuerOfFlags', () => {
  test('makes a rule of each text, and the ID of the issuer and the subject', () => {
    const made = issuerOfFlags(issuer.issuer, ['a=1, b=2,b=3', 'c=x=y'], 'acme.example')
    expect(made.rules.map(({ match }) => match)).toEqual([{ a: ['1'], b: ['2', '3'] }, { c: ['x=y'] }])
    expect(made.rules[0].id).toBe('/oidc/token.actions.githubusercontent.com/{sub}')
  })

  test.each([[[]], [['']], [['a']], [['=1']], [['a=']], [['a=1,']]])('refuses %j', (allowed: string[]) => {
    expect(() => issuerOfFlags(issuer.issuer, allowed, 'a.example')).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})
