import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

const execute = promisify(execFile)
const cache = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-debian')

/** Programs of Debian that must not be installed on the machine that runs the tests: they would take its resolver file. */
export type DebianPackage = 'systemd-resolved' | 'openresolv' | 'resolvconf'

/** The folder of an unpacked package, fetched once with apt; undefined where apt cannot. */
export async function debianPackage(name: DebianPackage): Promise<string | undefined> {
  const folder = join(cache, name)
  const found = await stat(folder).catch(() => undefined)
  if (found) return folder
  return unpack(name, folder).catch(() => undefined)
}

/** Unpacked as on a machine of today: `/lib` and `/sbin` lie below `/usr`. */
async function unpack(name: DebianPackage, folder: string): Promise<string> {
  const work = `${folder}.${process.pid}`
  await mkdir(work, { recursive: true })
  try {
    await execute('apt-get', ['download', name], { cwd: work, timeout: 60_000 })
    const archive = (await readdir(work)).find((file) => file.endsWith('.deb')) ?? ''
    await execute('dpkg-deb', ['-x', archive, 'files'], { cwd: work })
    await mkdir(join(work, 'files/usr'), { recursive: true })
    for (const old of ['lib', 'sbin', 'bin']) {
      await cp(join(work, 'files', old), join(work, 'files/usr', old), { recursive: true }).catch(() => {})
      await rm(join(work, 'files', old), { recursive: true, force: true })
    }
    // Another test file may have been quicker.
    await rename(join(work, 'files'), folder).catch(() => stat(folder))
    return folder
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}
