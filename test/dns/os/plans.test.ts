import { describe, expect, test } from 'vitest'
import { planDarwin } from '../../../src/dns/os/darwin-plan.ts'
import type { Step } from '../../../src/dns/os/plan.ts'
import type { Served } from '../../../src/dns/os/system-dns.ts'
import { planWindows } from '../../../src/dns/os/windows-plan.ts'

const listener = { address: '127.0.0.1', port: 5355 }
const served = (suffixes: readonly string[], searchDomains: readonly string[] = []): Served => ({
  searchDomains,
  links: [{ interfaceName: 'nsm0', searchDomains, suffixes }],
})
/** A step as one line. */
const line = (step: Step): string => {
  if (step.kind === 'write') return `write ${step.path} ${JSON.stringify(step.text.split('\n').slice(1))}`
  if (step.kind === 'remove') return `remove ${step.path} if ${step.marker}`
  return [step.program, ...step.args, ...(step.input ? [JSON.stringify(step.input)] : [])].join(' ')
}
const flush = ['dscacheutil -flushcache', 'killall -HUP mDNSResponder']

describe('planDarwin', () => {
  test('writes a file for each domain, reverse zones too, and one for the search list', () => {
    const { set, undo } = planDarwin(served(['svc.example.', '10.64.0.0/15'], ['svc.example']), listener)
    const file = '["nameserver 127.0.0.1","port 5355",""]'
    expect(set.map(line)).toEqual([
      `write /etc/resolver/svc.example ${file}`,
      `write /etc/resolver/64.10.in-addr.arpa ${file}`,
      `write /etc/resolver/65.10.in-addr.arpa ${file}`,
      'write /etc/resolver/search.nsm ["search svc.example",""]',
      ...flush,
    ])
    expect(undo.map(line)).toEqual([
      'remove /etc/resolver/svc.example if # nsm:',
      'remove /etc/resolver/64.10.in-addr.arpa if # nsm:',
      'remove /etc/resolver/65.10.in-addr.arpa if # nsm:',
      'remove /etc/resolver/search.nsm if # nsm:',
      ...flush,
    ])
  })

  test('every file begins with the words by which the undo knows it', () => {
    const { set } = planDarwin(served(['a.example'], ['a.example']), listener)
    const texts = set.flatMap((step) => (step.kind === 'write' ? [step.text] : []))
    expect(texts.map((text) => text.startsWith('# nsm:'))).toEqual([true, true])
  })

  test('takes everything by a key of the dynamic store, which goes first when it is taken back', () => {
    const { set, undo } = planDarwin(served(['.']), listener)
    expect(set.map(line)).toEqual([
      `scutil ${JSON.stringify('d.init\nd.add ServerAddresses * 127.0.0.1\nd.add ServerPort # 5355\nd.add SupplementalMatchDomains * ""\nd.add SearchOrder # 1\nset State:/Network/Service/nsm/DNS\n')}`,
      ...flush,
    ])
    expect(undo.map(line)).toEqual([`scutil ${JSON.stringify('remove State:/Network/Service/nsm/DNS\n')}`, ...flush])
  })

  test.each(['../passwd', '..', '.hidden', 'a:b', 'a b', 'a/b.example'])('writes no file for %j', (suffix) => {
    if (suffix.includes('/')) return expect(() => planDarwin(served([suffix]), listener)).toThrow()
    expect(planDarwin(served([suffix]), listener).set.map(line)).toEqual(flush)
  })
})

const at53 = { address: '127.0.0.55', port: 53 }
const local = 'HKLM\\SYSTEM\\CurrentControlSet\\Services\\Dnscache\\Parameters\\DnsPolicyConfig'
const policy = 'HKLM\\SOFTWARE\\Policies\\Microsoft\\Windows NT\\DNSClient\\DnsPolicyConfig'
const first = '{6e736d00-646e-4000-8000-000000000000}'

describe('planWindows', () => {
  test('adds one rule with the names, a leading dot before each, and flushes', () => {
    const { set, undo } = planWindows(served(['svc.example', '10.64.0.0/16']), at53, false)
    const key = `${local}\\${first}`
    expect(set.map(line)).toEqual([
      `reg add ${key} /v Version /t REG_DWORD /d 1 /f`,
      `reg add ${key} /v Name /t REG_MULTI_SZ /d .svc.example\\0.64.10.in-addr.arpa /f`,
      `reg add ${key} /v GenericDNSServers /t REG_SZ /d 127.0.0.55 /f`,
      `reg add ${key} /v ConfigOptions /t REG_DWORD /d 8 /f`,
      'ipconfig /flushdns',
    ])
    expect(undo.map(line)).toEqual([`reg delete ${key} /f`, 'ipconfig /flushdns'])
  })

  test('puts at most fifty names into a rule', () => {
    const names = Array.from({ length: 101 }, (_, at) => `d${at}.example`)
    const { set, undo } = planWindows(served(names), at53, false)
    const lists = set.map(line).filter((text) => text.includes('REG_MULTI_SZ'))
    expect(lists.map((text) => text.split('\\0.').length)).toEqual([50, 50, 1])
    expect(undo.map(line).filter((text) => text.startsWith('reg delete')).length).toBe(3)
  })

  test('writes into the group policy too while it has rules, for local ones are ignored then', () => {
    const { set, undo } = planWindows(served(['svc.example']), at53, true)
    expect(set.map(line).filter((text) => text.includes(`${policy}\\${first}`)).length).toBe(4)
    expect(set.map(line).slice(-2)).toEqual(['gpupdate /target:computer', 'ipconfig /flushdns'])
    expect(undo.map(line)).toEqual([
      `reg delete ${local}\\${first} /f`,
      `reg delete ${policy}\\${first} /f`,
      'gpupdate /target:computer',
      'ipconfig /flushdns',
    ])
  })

  test('takes everything as the rule of the single dot', () => {
    expect(planWindows(served(['.']), at53, false).set.map(line)[1]).toContain('/d . /f')
  })

  test.each([
    ['a port that no rule can name', served(['a.example']), listener],
    ['too many names', served(Array.from({ length: 3_201 }, (_, at) => `d${at}.example`)), at53],
  ])('refuses %s', (_what, wanted, to) => {
    expect(() => planWindows(wanted, to, false)).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})
