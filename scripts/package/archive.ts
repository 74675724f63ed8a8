import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildTimeS } from './build-time.ts'
import type { Packing } from './packing.ts'
import type { Program } from './program.ts'
import { runTool } from './run-tool.ts'

/** Writes the program with what belongs to it as one archive: .zip for Windows, .tar.xz for the others; gives its path. */
export function buildArchive(program: Program, { beside, isQuick, dir }: Packing): string {
  const name = `nsm-${program.version}-${program.target.name}`
  const scratch = mkdtempSync(join(tmpdir(), 'nsm-archive-'))
  try {
    writeFolder(join(scratch, name), program, beside)
    const isZip = program.target.format === 'pe'
    const output = join(dir, `${name}.${isZip ? 'zip' : 'tar.xz'}`)
    if (isZip) zip(scratch, name, output)
    else tar({ scratch, name, output, level: isQuick ? 0 : 6 })
    return output
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function writeFolder(folder: string, program: Program, beside: Packing['beside']): void {
  mkdirSync(folder)
  const put = (name: string, text: string) => {
    writeFileSync(join(folder, name), text)
    chmodSync(join(folder, name), 0o644)
  }
  put('LICENSE', beside.licence)
  put('THIRD-PARTY-NOTICES.txt', program.notices)
  const isWindows = program.target.format === 'pe'
  for (const [name, text] of beside.completions) if (name.endsWith('.ps1') || !isWindows) put(name, text)
  if (!isWindows) put('nsm.1', beside.manPage)
  copyFileSync(program.path, join(folder, program.target.program))
  chmodSync(join(folder, program.target.program), 0o755)
}

/** Neither owner nor time is the build's: the same content gives the same archive. */
function tar({ scratch, name, output, level }: Tar): void {
  const plain = [
    '--sort=name',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    `--mtime=@${buildTimeS()}`,
    '--format=ustar',
  ]
  runTool('tar', [...plain, `--use-compress-program=xz -${level} -T1`, '-cf', output, '-C', scratch, name])
}

interface Tar {
  readonly scratch: string
  readonly name: string
  readonly output: string
  readonly level: number
}

/** By a list, for a zip of files has their other times too. */
function zip(scratch: string, name: string, output: string): void {
  const common = `type=file uid=0 gid=0 time=${buildTimeS()}.0`
  const entries = readdirSync(join(scratch, name))
    .sort()
    .map((file) => {
      const mode = file.endsWith('.exe') ? '0755' : '0644'
      return `${name}/${file} ${common} mode=${mode} contents=${join(scratch, name, file)}`
    })
  writeFileSync(join(scratch, 'list'), ['#mtree', ...entries, ''].join('\n'))
  runTool('bsdtar', ['--format', 'zip', '-cf', output, `@${join(scratch, 'list')}`])
}
