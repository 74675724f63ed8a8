import { NsmError } from '../base/errors.ts'
import { readJsonObject } from '../base/json.ts'
import { tokenMaxCharacters } from '../nsm/limits.ts'

/** The path of a registration: tokens only. It travels as JSON in call metadata. [NSM sdk registry/common/grpcmetadata] */
export interface RegistrationPath {
  readonly index: number
  readonly tokens: readonly string[]
}

/** Metadata key of requests and of the answer's header. */
export const pathMetadataKey = 'path'

/** What a first registration sends. */
export const emptyRegistrationPath: RegistrationPath = { index: 0, tokens: [] }

/** [NSM sdk grpcmetadata] `Index` and `PathSegments` are capitalised, `token` is not. */
export function formatRegistrationPath(path: RegistrationPath): string {
  return JSON.stringify({ Index: path.index, PathSegments: path.tokens.map((token) => ({ token })) })
}

/** Reads the JSON; throws `REFUSED` for anything that is not a path. */
export function parseRegistrationPath(text: string): RegistrationPath {
  const header = readJsonObject(text)
  if (!header) throw malformed()
  const { Index: index = 0, PathSegments: segments } = header
  const list = segments ?? []
  if (!isIndex(index) || !Array.isArray(list) || list.length > segmentsMax) throw malformed()
  return { index, tokens: list.map(tokenOf) }
}

/**
 * Puts the caller's token and our own into the path: what the server checks, and with `index` as it came, what it
 * answers. Throws `REFUSED` when the index lies outside. [NSM sdk registry/common/updatepath]
 */
export function enterRegistrationPath(
  path: RegistrationPath,
  tokens: { caller: string; own: string },
): RegistrationPath {
  if (path.tokens.length === 0) return { index: 1, tokens: [tokens.caller, tokens.own] }
  if (path.index >= path.tokens.length) throw malformed()
  const entered = [...path.tokens]
  entered[path.index] = tokens.caller
  entered[path.index + 1] = tokens.own
  return { index: path.index + 1, tokens: entered }
}

/** Ours: a registration through every hop of two clusters has 6. */
const segmentsMax = 64

function isIndex(value: unknown): value is number {
  return Number.isInteger(value) && typeof value === 'number' && value >= 0 && value < segmentsMax
}

function tokenOf(segment: unknown): string {
  const token = typeof segment === 'object' && segment !== null && 'token' in segment ? segment.token : undefined
  if (typeof token !== 'string' || token.length > tokenMaxCharacters) throw malformed()
  return token
}

function malformed(): NsmError {
  return new NsmError(
    'REFUSED',
    'the registration path in metadata "path" cannot be read',
    'send it as it was answered',
  )
}
