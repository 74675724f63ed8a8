import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { readSettingsFile } from '../base/settings-file.ts'
import type { SvidText } from '../daemon/protocol.ts'

/** Names under which SPIFFE tools store an SVID in a folder: spiffe-helper, spire-agent, and the plain ones. */
const svidNames = ['svid.pem', 'svid.0.pem'] as const
const keyNames = ['key.pem', 'svid_key.pem', 'svid.0.key', 'svid.key'] as const
const bundleNames = ['bundle.pem', 'svid_bundle.pem', 'bundle.0.pem'] as const

/** The join string in the text of a file: the line that starts with `nsm://`; `#` lines are for people. Throws `USAGE`. */
export function findJoinString(text: string, source: string): string {
  const found = text
    .split('\n')
    .map((line) => line.trim())
    .find((line) => line.startsWith('nsm://'))
  if (found !== undefined) return found
  throw new NsmError(
    'USAGE',
    `${source} holds no join string (a line that starts with nsm://)`,
    'nsm invite, on the server',
  )
}

/** Reads the join string of a file, or of standard input for `-`; throws `USAGE`. */
export async function readJoinString(path: string, readInput: () => Promise<string>): Promise<string> {
  if (path === '-') return findJoinString(await readInput(), 'standard input')
  return findJoinString(await readSettingsFile(path), path)
}

/** The files of an SVID: a folder, or the three paths; throws `USAGE` when one is missing. */
export async function readSvidFiles(paths: {
  readonly dir: string | undefined
  readonly svid: string | undefined
  readonly key: string | undefined
  readonly bundle: string | undefined
}): Promise<SvidText | undefined> {
  const { dir, svid, key, bundle } = paths
  if (dir === undefined && svid === undefined && key === undefined && bundle === undefined) return undefined
  const [theSvid, theKey, theBundle] = await Promise.all([
    readOne(svid, dir, { flag: '--svid', names: svidNames }),
    readOne(key, dir, { flag: '--key', names: keyNames }),
    readOne(bundle, dir, { flag: '--bundle', names: bundleNames }),
  ])
  return {
    ...{ svidPem: theSvid.text, keyPem: theKey.text, bundlePem: theBundle.text },
    paths: { svidPath: theSvid.path, keyPath: theKey.path, bundlePath: theBundle.path },
  }
}

async function readOne(
  path: string | undefined,
  dir: string | undefined,
  wanted: { readonly flag: string; readonly names: readonly string[] },
): Promise<{ readonly text: string; readonly path: string }> {
  if (path !== undefined) return { text: await readSettingsFile(path), path: resolve(path) }
  if (dir === undefined)
    throw new NsmError('USAGE', `${wanted.flag} is missing`, '--svid, --key and --bundle go together')
  for (const name of wanted.names) {
    const text = await readFile(join(dir, name), 'utf8').catch(() => undefined)
    if (text !== undefined) return { text, path: resolve(dir, name) }
  }
  throw new NsmError('USAGE', `${dir} holds none of ${wanted.names.join(', ')}`, `name the file with ${wanted.flag}`)
}
