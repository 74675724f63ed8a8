import { dirname } from 'node:path'
import { makePrivateDir, readPrivateFile, removeFile, writeFileAtomic } from '../base/files.ts'
import { isTexts, readJsonObject } from '../base/json.ts'
import { type StoreName, storeNames } from '../identity/secret-store.ts'

/** A login of a person, without its secret. */
export interface LoginRecord {
  readonly issuer: string
  readonly clientId: string
  /** Names the secret in the keychain. */
  readonly account: string
  readonly store: StoreName | 'none'
  /** Why the safer places did not take it. */
  readonly reasons: readonly string[]
  /** The issuer's word when it gives no fresh token any more. */
  readonly refused?: string
}

/** Writes a record in one step. */
export async function saveLoginRecord(path: string, record: LoginRecord): Promise<void> {
  await makePrivateDir(dirname(path))
  await writeFileAtomic(path, `${JSON.stringify({ version: recordVersion, ...record }, undefined, 2)}\n`)
}

/** Reads a record; undefined when there is none, or none of a known version: then nobody is logged in. */
export async function loadLoginRecord(path: string): Promise<LoginRecord | undefined> {
  const content = await readPrivateFile(path)
  return content === undefined ? undefined : parse(content)
}

/** Removes a record; no failure when there is none. */
export function removeLoginRecord(path: string): Promise<void> {
  return removeFile(path)
}

const recordVersion = 1

function parse(content: string): LoginRecord | undefined {
  const { version, issuer, clientId, account, reasons, refused, ...found } = readJsonObject(content) ?? {}
  const store = [...storeNames, 'none' as const].find((name) => name === found['store'])
  if (version !== recordVersion || !store || !isTexts(reasons)) return undefined
  if (typeof issuer !== 'string' || typeof clientId !== 'string' || typeof account !== 'string') return undefined
  return { issuer, clientId, account, store, reasons, ...(typeof refused === 'string' ? { refused } : {}) }
}
