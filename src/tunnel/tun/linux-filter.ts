import { addressBytes, type IpAddress, parseInterfaceAddress } from '../../base/ip.ts'
import { big32, type FilterChange, filterChange, nested } from '../sys/netfilter.ts'
import { attribute, textAttribute } from '../sys/netlink.ts'
import type { Fenced } from './host-network.ts'

/* What `nft list ruleset` shows of a connection:
 *
 *   table inet nsm-fence-nsm-blue { chain in { type filter hook prerouting priority raw
 *     iifname != { nsm-blue, lo } ip daddr 10.64.0.5 drop        nobody else reaches the tunnel's address
 *     iifname nsm-blue ip daddr != 10.64.0.5 drop                and nothing else comes out of the tunnel
 *     iifname nsm-blue meta nfproto ipv6 drop                    a family without an address is not there
 *   } }
 *   table arp nsm-fence-nsm-blue { chains in and out: arp daddr ip 10.64.0.5 drop, arp saddr ip 10.64.0.5 drop }
 */

/** The changes that make the tables of a connection, owned by the socket they are sent with. */
export function fenceChanges({ interfaceName, addresses }: Fenced): FilterChange[] {
  const own = addresses.map((prefix) => parseInterfaceAddress(prefix).address)
  const [four] = own.filter(({ family }) => family === 4)
  return [...inetTable(interfaceName, own), ...(four ? arpTable(interfaceName, addressBytes(four)) : [])]
}

/** The changes that remove what `fenceChanges` made. */
export function unfenceChanges({ interfaceName, addresses }: Fenced): FilterChange[] {
  const hasFour = addresses.some((prefix) => !prefix.includes(':'))
  return [inet, ...(hasFour ? [arp] : [])].map((family) => ({
    type: filterChange.deleteTable,
    family,
    attributes: [textAttribute(NFTA_TABLE_NAME, tableName(interfaceName))],
  }))
}

function inetTable(name: string, own: readonly IpAddress[]): FilterChange[] {
  const at = { family: inet, table: tableName(name), chain: 'in' }
  const add = (...rule: readonly Uint8Array[]) => newRule(at, rule)
  const absent = ([4, 6] as const).filter((family) => !own.some((address) => address.family === family))
  return [
    newTable(at),
    newChain(at, { hook: NF_INET_PRE_ROUTING, priority: rawPriority }),
    ...own.flatMap((address) => [
      add(
        ...interfaceIs(NFT_CMP_NEQ, name),
        ...interfaceIs(NFT_CMP_NEQ, 'lo'),
        ...familyIs(address.family),
        ...to(NFT_CMP_EQ, address),
      ),
      add(...interfaceIs(NFT_CMP_EQ, name), ...familyIs(address.family), ...to(NFT_CMP_NEQ, address)),
    ]),
    ...absent.map((family) => add(...interfaceIs(NFT_CMP_EQ, name), ...familyIs(family))),
  ]
}

/** The neighbours are not told where the address is; IPv6 tells only addresses of the interface that is asked. */
function arpTable(name: string, address: Uint8Array): FilterChange[] {
  const part = (chain: string, hook: number, offset: number) => {
    const at = { family: arp, table: tableName(name), chain }
    return [
      newChain(at, { hook, priority: 0 }),
      newRule(at, compare(payload(offset, address.length), NFT_CMP_EQ, address)),
    ]
  }
  const table = { family: arp, table: tableName(name), chain: '' }
  return [newTable(table), ...part('in', NF_ARP_IN, arpTargetOffset), ...part('out', NF_ARP_OUT, arpSenderOffset)]
}

function tableName(interfaceName: string): string {
  return `nsm-fence-${interfaceName}`
}

interface ChainName {
  readonly family: number
  readonly table: string
  readonly chain: string
}

function newTable({ family, table }: ChainName): FilterChange {
  const attributes = [textAttribute(NFTA_TABLE_NAME, table), attribute(NFTA_TABLE_FLAGS, big32(NFT_TABLE_F_OWNER))]
  return { type: filterChange.newTable, family, attributes }
}

function newChain(
  { family, table, chain }: ChainName,
  { hook, priority }: { readonly hook: number; readonly priority: number },
): FilterChange {
  const where = [attribute(NFTA_HOOK_HOOKNUM, big32(hook)), attribute(NFTA_HOOK_PRIORITY, big32(priority))]
  const attributes = [
    textAttribute(NFTA_CHAIN_TABLE, table),
    textAttribute(NFTA_CHAIN_NAME, chain),
    nested(NFTA_CHAIN_HOOK, ...where),
    textAttribute(NFTA_CHAIN_TYPE, 'filter'),
  ]
  return { type: filterChange.newChain, family, attributes }
}

/** A packet for which every comparison holds is dropped. */
function newRule({ family, table, chain }: ChainName, comparisons: readonly Uint8Array[]): FilterChange {
  const attributes = [
    textAttribute(NFTA_RULE_TABLE, table),
    textAttribute(NFTA_RULE_CHAIN, chain),
    nested(NFTA_RULE_EXPRESSIONS, ...comparisons, drop()),
  ]
  return { type: filterChange.newRule, family, attributes }
}

function interfaceIs(operator: number, name: string): Uint8Array[] {
  const padded = new Uint8Array(interfaceNameBytes)
  new TextEncoder().encodeInto(name, padded)
  return compare(meta(NFT_META_IIFNAME), operator, padded)
}

function familyIs(family: 4 | 6): Uint8Array[] {
  return compare(meta(NFT_META_NFPROTO), NFT_CMP_EQ, Uint8Array.of(family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6))
}

/** The destination in the IP header. */
function to(operator: number, address: IpAddress): Uint8Array[] {
  const bytes = addressBytes(address)
  return compare(payload(address.family === 4 ? 16 : 24, bytes.length), operator, bytes)
}

/** Loads a value into register 1 and goes on only when the comparison holds. */
function compare(load: Uint8Array, operator: number, value: Uint8Array): Uint8Array[] {
  const data = nested(NFTA_CMP_DATA, attribute(NFTA_DATA_VALUE, value))
  return [
    load,
    expression('cmp', attribute(NFTA_CMP_SREG, big32(register1)), attribute(NFTA_CMP_OP, big32(operator)), data),
  ]
}

function meta(key: number): Uint8Array {
  return expression('meta', attribute(NFTA_META_KEY, big32(key)), attribute(NFTA_META_DREG, big32(register1)))
}

/** Bytes of the network header: of IP, or of ARP in its family. */
function payload(offset: number, bytes: number): Uint8Array {
  return expression(
    'payload',
    attribute(NFTA_PAYLOAD_DREG, big32(register1)),
    attribute(NFTA_PAYLOAD_BASE, big32(NFT_PAYLOAD_NETWORK_HEADER)),
    attribute(NFTA_PAYLOAD_OFFSET, big32(offset)),
    attribute(NFTA_PAYLOAD_LEN, big32(bytes)),
  )
}

function drop(): Uint8Array {
  const verdict = nested(NFTA_DATA_VERDICT, attribute(NFTA_VERDICT_CODE, big32(NF_DROP)))
  return expression(
    'immediate',
    attribute(NFTA_IMMEDIATE_DREG, big32(verdictRegister)),
    nested(NFTA_IMMEDIATE_DATA, verdict),
  )
}

function expression(name: string, ...attributes: readonly Uint8Array[]): Uint8Array {
  return nested(NFTA_LIST_ELEM, textAttribute(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, ...attributes))
}

/** [Linux include/uapi/linux/netfilter.h, netfilter_arp.h] Families and hooks. */
const inet = 1
const NFPROTO_IPV4 = 2
const arp = 3
const NFPROTO_IPV6 = 10
const NF_INET_PRE_ROUTING = 0
const NF_ARP_IN = 0
const NF_ARP_OUT = 1
const NF_DROP = 0
/** [Linux include/uapi/linux/netfilter_ipv4.h] Before connection tracking and address translation. */
const rawPriority = -300
/** [RFC 826] Of an IPv4 ARP packet over Ethernet. */
const arpSenderOffset = 14
const arpTargetOffset = 24
/** IFNAMSIZ: the kernel compares all of it. */
const interfaceNameBytes = 16
/** [Linux include/uapi/linux/netfilter/nf_tables.h] */
const verdictRegister = 0
const register1 = 1
const NFT_TABLE_F_OWNER = 2
const NFT_CMP_EQ = 0
const NFT_CMP_NEQ = 1
const NFT_META_IIFNAME = 6
const NFT_META_NFPROTO = 15
const NFT_PAYLOAD_NETWORK_HEADER = 1
const NFTA_LIST_ELEM = 1
const NFTA_TABLE_NAME = 1
const NFTA_TABLE_FLAGS = 2
const NFTA_CHAIN_TABLE = 1
const NFTA_CHAIN_NAME = 3
const NFTA_CHAIN_HOOK = 4
const NFTA_CHAIN_TYPE = 7
const NFTA_HOOK_HOOKNUM = 1
const NFTA_HOOK_PRIORITY = 2
const NFTA_RULE_TABLE = 1
const NFTA_RULE_CHAIN = 2
const NFTA_RULE_EXPRESSIONS = 4
const NFTA_EXPR_NAME = 1
const NFTA_EXPR_DATA = 2
const NFTA_META_DREG = 1
const NFTA_META_KEY = 2
const NFTA_PAYLOAD_DREG = 1
const NFTA_PAYLOAD_BASE = 2
const NFTA_PAYLOAD_OFFSET = 3
const NFTA_PAYLOAD_LEN = 4
const NFTA_CMP_SREG = 1
const NFTA_CMP_OP = 2
const NFTA_CMP_DATA = 3
const NFTA_DATA_VALUE = 1
const NFTA_DATA_VERDICT = 2
const NFTA_VERDICT_CODE = 1
const NFTA_IMMEDIATE_DREG = 1
const NFTA_IMMEDIATE_DATA = 2
