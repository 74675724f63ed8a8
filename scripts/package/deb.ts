import { hash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { gzipSync } from 'node:zlib'
import { buildTimeS } from './build-time.ts'
import type { Packing } from './packing.ts'
import type { Program } from './program.ts'
import { runTool } from './run-tool.ts'
import { type Put, template, writeUnixTree } from './unix-tree.ts'

/** Writes `nsm_VERSION_ARCHITECTURE.deb` into `dir` and gives its path; needs dpkg-deb [deb(5)]. */
export function buildDeb(program: Program, { beside, isQuick, dir }: Packing): string {
  const architecture = program.target.name === 'linux-x64' ? 'amd64' : 'arm64'
  const tree = mkdtempSync(join(tmpdir(), 'nsm-deb-'))
  try {
    const places = { units: 'lib/systemd/system', zsh: 'usr/share/zsh/vendor-completions' }
    const put = writeUnixTree(tree, { program, beside, places })
    writeControl(put, program, architecture)
    put('DEBIAN/md5sums', sumsOf(tree))
    const output = join(dir, `nsm_${program.version}_${architecture}.deb`)
    const compression = isQuick ? ['-Zgzip', '-z1'] : ['-Zxz']
    runTool('dpkg-deb', ['--root-owner-group', ...compression, '-b', tree, output])
    return output
  } finally {
    rmSync(tree, { recursive: true, force: true })
  }
}

function writeControl(put: Put, { path, version }: Program, architecture: string): void {
  const installedKib = String(Math.ceil(statSync(path).size / 1_024))
  const date = new Date(buildTimeS() * 1_000).toUTCString().replace('GMT', '+0000')
  const fields = { VERSION: version, ARCHITECTURE: architecture, INSTALLED_KIB: installedKib, DATE: date }
  put('usr/share/doc/nsm/changelog.gz', gzipSync(template('deb/changelog', fields), { level: 9 }))
  put('usr/share/lintian/overrides/nsm', template('deb/lintian-overrides'))
  put('DEBIAN/control', template('deb/control', fields))
  for (const script of ['postinst', 'prerm', 'postrm']) put(`DEBIAN/${script}`, template(`deb/${script}`), 0o755)
}

/** What `dpkg --verify` compares an installation with. */
function sumsOf(tree: string): string {
  const files = readdirSync(tree, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  const paths = files.map(({ parentPath, name }) => relative(tree, join(parentPath, name)))
  const installed = paths.filter((path) => !path.startsWith('DEBIAN/')).sort()
  return installed.map((path) => `${hash('md5', readFileSync(join(tree, path)))}  ${path}\n`).join('')
}
