import { spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { chmod, lstat, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { NsmError } from '../../../src/base/errors.ts'
import { verifyMinisign } from './minisign.ts'

/** What is fetched, and by what it is believed. */
export interface Wanted {
  /** URL or folder of the files of a release. */
  readonly from: string
  /** Empty: whichever it is. */
  readonly version: string
  readonly proof: Proof
  /** As the names of the archives have it: `linux-x64`. */
  readonly platform: string
}

/** At least one of them; an empty one is not given. */
export interface Proof {
  /** Public key of minisign that signed the sums of the release. */
  readonly key: string
  /** Of the archive, in hexadecimal digits. */
  readonly sha256: string
}

/**
 * Fetches the program of a release into `folder` and gives its path. Throws `USAGE`, `UNREACHABLE`, or `REFUSED` when it is not
 * what was promised.
 */
export async function fetchProgram(wanted: Wanted, folder: string): Promise<string> {
  const { from, platform, proof, version } = wanted
  if (proof.key === '' && proof.sha256 === '') {
    throw new NsmError('USAGE', 'nothing says which release is the right one', 'give the input key, or sha256')
  }
  const sums = await fetchFile(from, 'SHA256SUMS', textLimitBytes)
  if (proof.key !== '') {
    const signature = await fetchFile(from, 'SHA256SUMS.minisig', textLimitBytes)
    verifyMinisign(sums, signature.toString(), proof.key)
  }
  const { name, sum } = archiveOf(sums.toString(), platform, version)
  const archive = await fetchFile(from, `${name}.tar.xz`, archiveLimitBytes)
  for (const promised of [sum, proof.sha256.toLowerCase()]) {
    if (promised !== '' && hash('sha256', archive) !== promised)
      throw changed(`${name}.tar.xz has not the SHA-256 ${promised}`)
  }
  return unpack(archive, name, folder)
}

/** Ours: a release comes within this time on any line that a job can be run on. */
const fetchTimeoutMs = 300_000
/** Ours: four times an archive, for it is all in memory before it is believed. */
const archiveLimitBytes = 128 * 1_024 * 1_024
/** Ours: sums and signatures are a few lines. */
const textLimitBytes = 64 * 1_024
/** Ours: those who keep releases lead once to where the bytes are. */
const redirectLimit = 5

interface Limits {
  readonly limitBytes: number
  readonly signal: AbortSignal
  readonly redirects: number
}

async function fetchFile(from: string, name: string, limitBytes: number): Promise<Buffer> {
  if (from.startsWith('/')) return readFile(join(from, name)).catch((cause) => missing(`${from}/${name}`, cause))
  if (!from.startsWith('https://')) throw new NsmError('USAGE', `${from} can be changed on its way`, 'use https://')
  const url = `${from.replace(/\/$/, '')}/${name}`
  const limits = { limitBytes, signal: AbortSignal.timeout(fetchTimeoutMs), redirects: redirectLimit }
  return download(url, limits).catch((cause) => missing(url, cause))
}

async function download(url: string, { redirects, ...limits }: Limits): Promise<Buffer> {
  const response = await fetch(url, { signal: limits.signal, redirect: 'manual' })
  const location = response.headers.get('location')
  if (response.status >= 300 && response.status < 400 && location !== null) {
    await response.body?.cancel()
    const next = new URL(location, url).href
    if (redirects === 0 || !next.startsWith('https://')) throw changed(`${url} leads to ${next}`)
    return download(next, { ...limits, redirects: redirects - 1 })
  }
  if (!response.ok) throw new NsmError('UNREACHABLE', `status ${response.status}`, 'check the input from')
  return bodyOf(response, limits.limitBytes)
}

async function bodyOf(response: Response, limitBytes: number): Promise<Buffer> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of response.body ?? []) {
    length += part.length
    if (length > limitBytes) throw changed(`${response.url} has more than ${limitBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts)
}

function missing(place: string, cause: unknown): never {
  if (cause instanceof NsmError && cause.code === 'REFUSED') throw cause
  const why = cause instanceof Error ? cause.message : String(cause)
  throw new NsmError('UNREACHABLE', `${place} cannot be fetched: ${why}`, 'check the input from', { cause })
}

/** The archive of a platform that the sums name; there is one. */
export function archiveOf(
  sums: string,
  platform: string,
  version: string,
): { readonly name: string; readonly sum: string } {
  const lines = [...sums.matchAll(/^([0-9a-f]{64}) {2}(nsm-(\d[\w.+-]*)-([a-z]+-[a-z0-9]+))\.tar\.xz$/gm)]
  const found = lines.filter(([, , , , of]) => of === platform)
  const [[, sum = '', name = '', is = ''] = [], second] = found
  if (name === '' || second)
    throw new NsmError('NOT_FOUND', `the release has ${found.length} archives for ${platform}`, 'check the input from')
  if (version !== '' && version !== is) throw changed(`the release is ${is}, not ${version}`)
  return { name, sum }
}

/** Only the program, by its whole name: an archive cannot put a file elsewhere. */
async function unpack(archive: Buffer, name: string, folder: string): Promise<string> {
  const packed = join(folder, 'archive.tar.xz')
  await writeFile(packed, archive)
  const { status, stderr } = spawnSync('tar', ['-xJf', packed, '-C', folder, `${name}/nsm`], { encoding: 'utf8' })
  if (status !== 0) throw new NsmError('PERMISSION', `the archive cannot be unpacked: ${stderr}`, 'is xz installed?')
  const program = join(folder, 'nsm')
  await rename(join(folder, name, 'nsm'), program)
  if (!(await lstat(program)).isFile()) throw changed(`${name} has no program in it`)
  await chmod(program, 0o755)
  for (const path of [packed, join(folder, name)]) await rm(path, { recursive: true })
  return program
}

function changed(what: string): NsmError {
  return new NsmError('REFUSED', `${what}: nothing of it was run`, 'ask whoever made the release')
}
