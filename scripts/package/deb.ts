import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'

const root = resolve(import.meta.dirname, '../..')
const templates = join(root, 'installers/deb')

/** What goes into the package. */
export interface DebContent {
  readonly program: string
  readonly version: string
  /** Of the completions, by name. */
  readonly completions: ReadonlyMap<string, string>
  readonly manPage: string
  /** As dpkg-deb takes it: `-Zxz`, or `-Zgzip -z1` where time counts more than size. */
  readonly compression: readonly string[]
}

/** Writes `nsm_VERSION_ARCHITECTURE.deb` into `dir` and gives its path; needs dpkg-deb [deb(5)]. */
export function buildDeb(content: DebContent, dir: string): string {
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch
  const tree = mkdtempSync(join(tmpdir(), 'nsm-deb-'))
  try {
    writeTree(tree, content, architecture)
    const output = join(dir, `nsm_${content.version}_${architecture}.deb`)
    // Times of the files are not kept: the same content gives the same package.
    const env = { ...process.env, SOURCE_DATE_EPOCH: '0' }
    execFileSync('dpkg-deb', ['--root-owner-group', ...content.compression, '-b', tree, output], { env, stdio: 'pipe' })
    return output
  } finally {
    rmSync(tree, { recursive: true, force: true })
  }
}

function writeTree(tree: string, content: DebContent, architecture: string): void {
  const { completions, manPage, program, version } = content
  const put = (path: string, text: string | Uint8Array, mode = 0o644) => {
    mkdirSync(join(tree, dirname(path)), { recursive: true, mode: 0o755 })
    writeFileSync(join(tree, path), text, { mode })
  }
  put('usr/bin/nsm', '', 0o755)
  copyFileSync(program, join(tree, 'usr/bin/nsm'))
  put('usr/share/man/man1/nsm.1.gz', gzipSync(manPage, { level: 9 }))
  put('usr/share/bash-completion/completions/nsm', completions.get('nsm.bash') ?? '')
  put('usr/share/zsh/vendor-completions/_nsm', completions.get('_nsm') ?? '')
  put('usr/share/fish/vendor_completions.d/nsm.fish', completions.get('nsm.fish') ?? '')
  put('usr/share/doc/nsm/copyright', readFileSync(join(root, 'LICENSE')))
  put('lib/systemd/system/nsm-serve.service', template('nsm-serve.service'))
  const installedKib = String(Math.ceil(statSync(program).size / 1_024))
  const fields = { VERSION: version, ARCHITECTURE: architecture, INSTALLED_KIB: installedKib }
  put(
    'DEBIAN/control',
    template('control').replace(/@([A-Z_]+)@/g, (_, name) => Reflect.get(fields, name)),
  )
  for (const script of ['postinst', 'prerm', 'postrm']) put(`DEBIAN/${script}`, template(script), 0o755)
}

function template(name: string): string {
  return readFileSync(join(templates, name), 'utf8')
}
