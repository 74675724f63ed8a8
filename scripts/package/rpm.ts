import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { Packing } from './packing.ts'
import type { Program } from './program.ts'
import { runTool } from './run-tool.ts'
import { template, writeUnixTree } from './unix-tree.ts'

/** Writes `nsm-VERSION-1.ARCHITECTURE.rpm` into `dir` and gives its path; needs rpmbuild. */
export function buildRpm(program: Program, { beside, isQuick, dir }: Packing): string {
  const architecture = program.target.name === 'linux-x64' ? 'x86_64' : 'aarch64'
  const top = mkdtempSync(join(tmpdir(), 'nsm-rpm-'))
  try {
    const tree = join(top, 'tree')
    mkdirSync(tree)
    const places = { units: 'usr/lib/systemd/system', zsh: 'usr/share/zsh/site-functions' }
    writeUnixTree(tree, { program, beside, places })
    const spec = join(top, 'nsm.spec')
    writeFileSync(spec, template('rpm/nsm.spec', { VERSION: program.version, TREE: tree }))
    const payload = isQuick ? 'w1.gzdio' : 'w7.xzdio'
    const defines = [`_topdir ${top}`, `_binary_payload ${payload}`]
    const words = [
      '-bb',
      '--quiet',
      '--target',
      `${architecture}-linux`,
      ...defines.flatMap((it) => ['--define', it]),
      spec,
    ]
    runTool('rpmbuild', words)
    const [built = ''] = readdirSync(join(top, 'RPMS', architecture))
    copyFileSync(join(top, 'RPMS', architecture, built), join(dir, basename(built)))
    return join(dir, basename(built))
  } finally {
    rmSync(top, { recursive: true, force: true })
  }
}
