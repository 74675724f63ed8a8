import { createPrivateKey } from 'node:crypto'
import { dirname } from 'node:path'
import { makePrivateDir, readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { refusal } from './refusal.ts'
import type { IdentityState, TrustBundles } from './source.ts'
import { svidOf } from './svid.ts'

/** An identity got from a server, and that server's URL. */
export interface Enrolment {
  readonly serverUrl: string
  readonly state: IdentityState
}

/** Writes the enrolment in one step, readable by its owner only. */
export async function saveEnrolment(path: string, { serverUrl, state }: Enrolment): Promise<void> {
  const { svid, bundles } = state
  const stored = {
    version: fileVersion,
    serverUrl,
    key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    chain: svid.chain.map(toBase64),
    bundles: Object.fromEntries([...bundles].map(([domain, roots]) => [domain, roots.map(toBase64)])),
  }
  await makePrivateDir(dirname(path))
  await writeFileAtomic(path, `${JSON.stringify(stored, undefined, 2)}\n`)
}

/**
 * Reads an enrolment, also one whose SVID is expired; undefined when there is none. Throws `PERMISSION` when others may
 * write the file, `IDENTITY` (`STATE_INVALID`) when it cannot be read.
 */
export async function loadEnrolment(path: string): Promise<Enrolment | undefined> {
  const text = await readPrivateFile(path)
  if (text === undefined) return undefined
  try {
    return parse(JSON.parse(text))
  } catch (error) {
    throw broken(path, error)
  }
}

const fileVersion = 1

function parse(stored: unknown): Enrolment {
  const { version, serverUrl, key, chain, bundles } = record(stored)
  if (version !== fileVersion || typeof serverUrl !== 'string' || typeof key !== 'string') throw malformed()
  const roots: TrustBundles = new Map(Object.entries(record(bundles)).map(([domain, list]) => [domain, derList(list)]))
  return { serverUrl, state: { svid: svidOf(derList(chain), createPrivateKey(key)), bundles: roots } }
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null) throw malformed()
  return { ...value }
}

function derList(value: unknown): Uint8Array[] {
  if (!Array.isArray(value)) throw malformed()
  return value.map((one: unknown) => {
    if (typeof one !== 'string') throw malformed()
    return Buffer.from(one, 'base64')
  })
}

function toBase64(der: Uint8Array): string {
  return Buffer.from(der).toString('base64')
}

function malformed() {
  return refusal('STATE_INVALID', 'not an enrolment of a known version')
}

function broken(path: string, cause: unknown) {
  return refusal('STATE_INVALID', `the stored identity in ${path} cannot be read`, {
    next: 'enrol again: `nsm invite` on the server, then `nsm connect --join FILE`',
    cause,
  })
}
