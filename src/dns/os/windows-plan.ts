import { NsmError } from '../../base/errors.ts'
import type { Plan, Step } from './plan.ts'
import { zonesOfSuffix } from './reverse-zones.ts'
import type { HostUpstream, Served } from './system-dns.ts'

const localRules = 'HKLM\\SYSTEM\\CurrentControlSet\\Services\\Dnscache\\Parameters\\DnsPolicyConfig'
const policyRules = 'HKLM\\SOFTWARE\\Policies\\Microsoft\\Windows NT\\DNSClient\\DnsPolicyConfig'

/** [Windows name resolution policy table] Not written down by its maker: a rule with more names is not applied. */
const namesPerRuleMax = 50
/** Ours: rules have fixed names, so that a start finds those of a process that died without remembering them. */
const rulesMax = 64

/**
 * Windows asks a server of its own for the names of each rule of the name resolution policy table. Rules outlive process and
 * reboot. While a group policy has rules, local ones are ignored: then ours go there. Throws `USAGE` for a port it cannot name.
 */
export function planWindows(served: Served, listener: HostUpstream, hasPolicyRules: boolean): Plan {
  if (listener.port !== 53) {
    throw new NsmError('USAGE', `Windows cannot name port ${listener.port}`, 'let the resolver listen on port 53')
  }
  const zones = [...new Set(served.links.flatMap(({ suffixes }) => suffixes.flatMap(zonesOfSuffix)))]
  const names = zones.map((zone) => `.${zone.replace(/\.$/, '')}`)
  const places = hasPolicyRules ? [localRules, policyRules] : [localRules]
  const groups = Array.from({ length: Math.ceil(names.length / namesPerRuleMax) }, (_, at) =>
    names.slice(at * namesPerRuleMax, (at + 1) * namesPerRuleMax),
  )
  if (groups.length > rulesMax) {
    throw new NsmError(
      'USAGE',
      `${names.length} names are too many for Windows`,
      `use ${rulesMax * namesPerRuleMax} at most`,
    )
  }
  const rules = places.flatMap((place) => groups.map((group, at) => ({ key: `${place}\\${ruleName(at)}`, group })))
  return {
    set: [...rules.flatMap(({ key, group }) => addRule(key, group, listener)), ...refresh(hasPolicyRules)],
    undo: [...rules.map(({ key }) => reg('delete', key, '/f')), ...refresh(hasPolicyRules)],
  }
}

function addRule(key: string, names: readonly string[], { address }: HostUpstream): readonly Step[] {
  const values = [
    ['Version', 'REG_DWORD', '1'],
    ['Name', 'REG_MULTI_SZ', names.join('\\0')],
    ['GenericDNSServers', 'REG_SZ', address],
    // 8: names of the rule are asked at its servers, and nothing else is changed for them.
    ['ConfigOptions', 'REG_DWORD', '8'],
  ]
  return values.map(([name = '', type = '', data = '']) => reg('add', key, '/v', name, '/t', type, '/d', data, '/f'))
}

function refresh(hasPolicyRules: boolean): readonly Step[] {
  const policy: Step = { kind: 'run', program: 'gpupdate', args: ['/target:computer'] }
  return [...(hasPolicyRules ? [policy] : []), { kind: 'run', program: 'ipconfig', args: ['/flushdns'] }]
}

function reg(...args: readonly string[]): Step {
  return { kind: 'run', program: 'reg', args }
}

function ruleName(at: number): string {
  return `{6e736d00-646e-4000-8000-${String(at).padStart(12, '0')}}`
}
