import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseAddress, parseInterfaceAddress, parsePrefix } from '../base/ip.ts'
import { printable } from '../base/printable.ts'
import { keyFromBase64, keyToHex } from './key-text.ts'

/** A peer's place as a file writes it: the host is an address or a name. */
export interface HostPort {
  readonly host: string
  readonly port: number
}

/** One `[Peer]` of a file. */
export interface WgQuickPeer {
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  readonly keepaliveSeconds: number
  readonly endpoint?: HostPort
  readonly allowedPrefixes: readonly string[]
}

/** A whole file. */
export interface WgQuickFile {
  readonly privateKey: Uint8Array
  /** With their length: '10.0.0.2/24'. */
  readonly addresses: readonly string[]
  /** 0 = any free one. */
  readonly listenPort: number
  /** Of the tunnel's own UDP packets; 0 = the program's own. */
  readonly fwmark: number
  /** Undefined: what the way to the peers allows. */
  readonly mtuBytes: number | undefined
  /** False for `Table = off`: allowed prefixes get no routes. */
  readonly hasRoutes: boolean
  readonly dnsServers: readonly string[]
  /** Domains that those servers are asked for; one at least when there are servers. */
  readonly dnsDomains: readonly string[]
  readonly peers: readonly WgQuickPeer[]
}

/** Ours: as many peers as one engine holds. */
const peersMax = 4_096

/**
 * Reads a file as wg-quick(8) and wg(8) describe it; throws `USAGE` naming file and line. Commands (`PostUp` and its like)
 * are refused: a file that is read brings up a tunnel and runs nothing. No message repeats a key.
 */
export function parseWgQuick(text: string, fileName: string): WgQuickFile {
  const draft: Draft = { addresses: [], dns: [], peers: [] }
  let section: Section | undefined
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line: Line = { at: `${printable(fileName)}:${index + 1}`, key: '', value: '' }
    const content = raw.replace(/#.*$/, '').trim()
    if (content === '') continue
    const header = /^\[(.*)\]$/.exec(content)?.[1]
    if (header !== undefined) section = openSection(draft, header.trim(), line)
    else readLine(section, { ...line, ...splitLine(content, line) })
  }
  return finish(draft, printable(fileName))
}

interface Line {
  /** `FILE:LINE`. */
  readonly at: string
  readonly key: string
  readonly value: string
}

interface PeerDraft {
  readonly at: string
  publicKey?: Uint8Array
  presharedKey?: Uint8Array
  keepaliveSeconds?: number
  endpoint?: HostPort
  readonly allowedPrefixes: string[]
}

interface Draft {
  privateKey?: Uint8Array
  listenPort?: number
  fwmark?: number
  mtuBytes?: number
  hasRoutes?: boolean
  readonly addresses: string[]
  readonly dns: { readonly at: string; readonly text: string }[]
  readonly peers: PeerDraft[]
}

interface Section {
  readonly name: string
  readonly keys: Readonly<Record<string, (line: Line) => void>>
  /** Keys that were given and may be only once. */
  readonly seen: Set<string>
}

function openSection(draft: Draft, name: string, line: Line): Section {
  const seen = new Set<string>()
  if (/^interface$/i.test(name)) return { name: '[Interface]', keys: interfaceKeys(draft), seen }
  if (!/^peer$/i.test(name)) throw fault(line, `[${printable(name)}] is no section`, 'write [Interface] or [Peer]')
  if (draft.peers.length >= peersMax) throw fault(line, `more than ${peersMax} peers`, 'split the file')
  const peer: PeerDraft = { at: line.at, allowedPrefixes: [] }
  draft.peers.push(peer)
  return { name: '[Peer]', keys: peerKeys(peer), seen }
}

function splitLine(content: string, line: Line): { readonly key: string; readonly value: string } {
  const equals = content.indexOf('=')
  if (equals <= 0) throw fault(line, 'is neither a section nor "Key = Value"', 'write it as wg-quick(8) says')
  return { key: content.slice(0, equals).trim(), value: content.slice(equals + 1).trim() }
}

function readLine(section: Section | undefined, line: Line): void {
  if (!section) throw fault(line, `${printable(line.key)} stands in no section`, 'begin the file with [Interface]')
  const key = line.key.toLowerCase()
  const read = Object.hasOwn(section.keys, key) ? section.keys[key] : undefined
  if (!read) throw fault(line, `${section.name} has no key ${printable(line.key)}`, 'see wg-quick(8) and wg(8)')
  if (section.seen.has(key) && !listKeys.includes(key)) throw fault(line, `${line.key} is there twice`, 'keep one')
  section.seen.add(key)
  read(line)
}

/** Keys that may be written on several lines. */
const listKeys = ['address', 'dns', 'allowedips']

function interfaceKeys(draft: Draft): Section['keys'] {
  return {
    privatekey: (line) => {
      draft.privateKey = key(line)
    },
    listenport: (line) => {
      draft.listenPort = number(line, { min: 0, max: 65_535 })
    },
    mtu: (line) => {
      draft.mtuBytes = number(line, mtuBytes)
    },
    address: (line) => {
      for (const text of list(line)) draft.addresses.push(checked(line, () => withLength(text)))
    },
    dns: (line) => {
      for (const text of list(line)) draft.dns.push({ at: line.at, text })
    },
    table: (line) => {
      draft.hasRoutes = hasRoutes(line)
    },
    fwmark: (line) => {
      draft.fwmark = fwmark(line)
    },
    saveconfig: (line) => {
      if (line.value !== 'false') throw fault(line, 'SaveConfig is not supported', 'remove it: nsm writes no file')
    },
    preup: refuseCommand,
    postup: refuseCommand,
    predown: refuseCommand,
    postdown: refuseCommand,
  }
}

function peerKeys(peer: PeerDraft): Section['keys'] {
  return {
    publickey: (line) => {
      peer.publicKey = key(line)
    },
    presharedkey: (line) => {
      peer.presharedKey = key(line)
    },
    allowedips: (line) => {
      for (const text of list(line)) peer.allowedPrefixes.push(checked(line, () => formatPrefix(parsePrefix(text))))
    },
    endpoint: (line) => {
      peer.endpoint = hostPort(line)
    },
    persistentkeepalive: (line) => {
      peer.keepaliveSeconds = line.value === 'off' ? 0 : number(line, { min: 0, max: 65_535 })
    },
  }
}

/** [RFC 791] 68 for IPv4; ours at the upper end: jumbo frames. */
const mtuBytes = { min: 576, max: 9_216 }

function refuseCommand(line: Line): never {
  throw fault(
    line,
    `${line.key} is a command, and nsm runs none`,
    'remove it, and run it yourself beside nsm tunnel up',
  )
}

/** Routes of tunnels have a table of their own, so a number cannot be chosen. */
function hasRoutes(line: Line): boolean {
  if (line.value === 'auto') return true
  if (line.value === 'off') return false
  throw fault(line, 'Table is auto or off', "remove it: routes are in nsm's own table")
}

function fwmark(line: Line): number {
  const value = /^(0x[0-9a-f]+|\d+)$/i.test(line.value) ? Number(line.value) : Number.NaN
  if (line.value === 'off' || value <= 0xffff_ffff) return value || 0
  throw fault(line, 'FwMark is off or a number of 32 bits', 'write it like 51820 or 0xca6c')
}

function key(line: Line): Uint8Array {
  const found = keyFromBase64(line.value)
  if (found) return found
  throw fault(line, `${line.key} is not a key of 32 bytes in base64`, 'make one with wg genkey')
}

function number(line: Line, range: { readonly min: number; readonly max: number }): number {
  const value = /^\d{1,5}$/.test(line.value) ? Number(line.value) : Number.NaN
  if (value >= range.min && value <= range.max) return value
  throw fault(line, `${line.key} is a number from ${range.min} to ${range.max}`, 'correct the line')
}

/** wg takes an empty list, as in `AllowedIPs =`. */
function list({ value }: Line): string[] {
  return value === '' ? [] : value.split(',').map((part) => part.trim())
}

function withLength(text: string): string {
  const { length } = parseInterfaceAddress(text)
  return text.includes('/') ? text : `${text}/${length}`
}

function hostPort(line: Line): HostPort {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^[\]:\s]+)):(\d{1,5})$/.exec(line.value)
  const [, ipv6, name, digits] = found ?? []
  const port = Number(digits)
  const host = ipv6 ?? name
  if (host === undefined || !(port >= 1 && port <= 65_535)) {
    throw fault(line, 'Endpoint is HOST:PORT', 'write it like vpn.example.org:51820 or [fd00::1]:51820')
  }
  if (ipv6 !== undefined) checked(line, () => parseAddress(ipv6))
  return { host, port }
}

/** Gives the line to what the parsers of `base` say. */
function checked<T>(line: Line, read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof NsmError) throw fault(line, printable(cause.message), cause.next)
    throw cause
  }
}

function fault(line: { readonly at: string }, what: string, next: string): NsmError {
  return new NsmError('USAGE', `${line.at}: ${what}`, next)
}

function finish(draft: Draft, fileName: string): WgQuickFile {
  const { privateKey } = draft
  if (!privateKey) throw fault({ at: fileName }, '[Interface] has no PrivateKey', 'make one with wg genkey')
  return {
    privateKey,
    addresses: draft.addresses,
    listenPort: draft.listenPort ?? 0,
    fwmark: draft.fwmark ?? 0,
    mtuBytes: draft.mtuBytes,
    hasRoutes: draft.hasRoutes ?? true,
    ...finishDns(draft),
    peers: finishPeers(draft.peers),
  }
}

/** Servers for every name of the machine are not taken from a file: its other names would go into this tunnel. */
function finishDns({ dns }: Draft): { readonly dnsServers: string[]; readonly dnsDomains: string[] } {
  const isAddress = (text: string) => /^[0-9.]+$/.test(text) || text.includes(':')
  const dnsServers = dns.filter(({ text }) => isAddress(text)).map(({ text }) => text)
  for (const line of dns)
    if (isAddress(line.text)) checked({ ...line, key: 'DNS', value: '' }, () => parseAddress(line.text))
  const dnsDomains = dns.filter(({ text }) => !isAddress(text)).map(({ text }) => text)
  const [first] = dns
  if (first && (dnsServers.length === 0 || dnsDomains.length === 0)) {
    const next = 'name both, as in DNS = 10.0.0.1, corp.example.org; or remove the line'
    throw fault(first, 'DNS needs servers and the domains they are asked for', next)
  }
  return { dnsServers, dnsDomains }
}

function finishPeers(drafts: readonly PeerDraft[]): WgQuickPeer[] {
  const seen = new Set<string>()
  return drafts.map(({ at, publicKey, keepaliveSeconds = 0, ...rest }) => {
    if (!publicKey) throw fault({ at }, 'this [Peer] has no PublicKey', 'add it')
    const text = keyToHex(publicKey)
    if (seen.has(text)) throw fault({ at }, 'this peer is there twice', 'merge the two [Peer] sections')
    seen.add(text)
    return { ...rest, publicKey, keepaliveSeconds }
  })
}
