import { create } from '@bufbuild/protobuf'
import { NsmError } from '../base/errors.ts'
import { parseAddress } from '../base/ip.ts'
import { type Mechanism, MechanismSchema } from './generated/connection_pb.js'

/** The WireGuard parameters of a mechanism; "src" is the client's side. What a side has not set is undefined. */
export interface WireGuardParameters {
  readonly srcIp: string | undefined
  readonly srcPort: number | undefined
  /** 32 bytes. */
  readonly srcPublicKey: Uint8Array | undefined
  readonly dstIp: string | undefined
  readonly dstPort: number | undefined
  /** 32 bytes. */
  readonly dstPublicKey: Uint8Array | undefined
  readonly mtuBytes: number | undefined
}

/** [NSM api mechanisms/wireguard] */
export const wireGuardType = 'WIREGUARD'
/** [NSM api mechanisms/cls] Class of mechanisms between machines. */
export const remoteClass = 'REMOTE'
/** [WG 5.4] Bytes of a Curve25519 public key. */
const publicKeyBytes = 32

/** True for a mechanism of WireGuard's type; the class is not compared, as NSM does not. */
export function isWireGuard(mechanism: Mechanism | undefined): boolean {
  return mechanism?.type.toUpperCase() === wireGuardType
}

/** Reads the text map of a mechanism; throws `REFUSED` naming the parameter that cannot be understood. */
export function parseWireGuard(mechanism: Mechanism): WireGuardParameters {
  const text = (name: string) => mechanism.parameters[name] || undefined
  return {
    srcIp: addressIn('src_ip', text('src_ip')),
    srcPort: numberIn('src_port', text('src_port'), 65_535),
    srcPublicKey: keyIn('src_public_key', text('src_public_key')),
    dstIp: addressIn('dst_ip', text('dst_ip')),
    dstPort: numberIn('dst_port', text('dst_port'), 65_535),
    dstPublicKey: keyIn('dst_public_key', text('dst_public_key')),
    mtuBytes: numberIn('MTU', text('MTU'), 65_535),
  }
}

/** Writes the parameters over those of `base`, so that parameters of others survive; undefined ones stay as they were. */
export function wireGuardMechanism(parameters: Partial<WireGuardParameters>, base?: Mechanism): Mechanism {
  const texts: Record<string, string | undefined> = {
    src_ip: parameters.srcIp,
    src_port: parameters.srcPort?.toString(),
    src_public_key: parameters.srcPublicKey && Buffer.from(parameters.srcPublicKey).toString('base64'),
    dst_ip: parameters.dstIp,
    dst_port: parameters.dstPort?.toString(),
    dst_public_key: parameters.dstPublicKey && Buffer.from(parameters.dstPublicKey).toString('base64'),
    MTU: parameters.mtuBytes?.toString(),
  }
  const merged: Record<string, string> = { ...base?.parameters }
  for (const [name, value] of Object.entries(texts)) if (value !== undefined) merged[name] = value
  return create(MechanismSchema, { cls: base?.cls || remoteClass, type: wireGuardType, parameters: merged })
}

function addressIn(name: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  try {
    parseAddress(text)
  } catch (cause) {
    throw malformed(name, text, cause)
  }
  return text
}

function numberIn(name: string, text: string | undefined, max: number): number | undefined {
  if (text === undefined) return undefined
  if (!/^\d{1,5}$/.test(text) || Number(text) > max || Number(text) === 0) throw malformed(name, text)
  return Number(text)
}

function keyIn(name: string, text: string | undefined): Uint8Array | undefined {
  if (text === undefined) return undefined
  const bytes = Buffer.from(text, 'base64')
  if (bytes.length !== publicKeyBytes || bytes.toString('base64') !== text) throw malformed(name, text)
  return new Uint8Array(bytes)
}

function malformed(name: string, text: string, cause?: unknown): NsmError {
  const message = `WireGuard parameter ${name}=${JSON.stringify(text.slice(0, 64))} cannot be understood`
  return new NsmError('REFUSED', message, 'the other side must send addresses, ports and base64 keys as NSM defines', {
    cause,
  })
}
