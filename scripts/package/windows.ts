import { hash } from 'node:crypto'
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { buildTimeS } from './build-time.ts'
import type { Packing } from './packing.ts'
import type { Program } from './program.ts'
import { runTool } from './run-tool.ts'
import { template } from './unix-tree.ts'

/** Writes `nsm-VERSION-win-x64.msi` into `dir` and gives its path; needs wixl and msibuild (Debian's wixl, msitools). */
export function buildMsi(program: Program, packing: Packing): string {
  return inScratch(program, packing, (scratch, fields) => {
    const output = join(packing.dir, `nsm-${program.version}-win-x64.msi`)
    writeFileSync(join(scratch, 'nsm.wxs'), template('windows/nsm.wxs', fields))
    runTool('wixl', ['-a', 'x64', '-o', output, 'nsm.wxs'], scratch)
    // wixl knows no element for it: the program's folder in everybody's PATH, taken out again at removal.
    writeFileSync(join(scratch, 'Environment.idt'), environmentTable)
    runTool('msibuild', [output, '-i', 'Environment.idt'], scratch)
    for (const [action, sequence] of environmentActions) {
      const into = 'INSERT INTO `InstallExecuteSequence` (`Action`, `Sequence`)'
      runTool('msibuild', [output, '-q', `${into} VALUES ('${action}', ${sequence})`], scratch)
    }
    // wixl draws the number of the package by lot.
    const summary = ['Installation Database', 'The nsm project', 'x64;1033', `{${guidOf(sumOf(program.path))}}`]
    runTool('msibuild', [output, '-s', ...summary], scratch)
    writeFileSync(output, withBuildTime(readFileSync(output)))
    return output
  })
}

/** Writes `nsm-VERSION-win-x64-setup.exe` into `dir` and gives its path; needs makensis (Debian's nsis). */
export function buildSetup(program: Program, packing: Packing): string {
  return inScratch(program, packing, (scratch, fields) => {
    const output = join(packing.dir, `nsm-${program.version}-win-x64-setup.exe`)
    writeFileSync(join(scratch, 'nsm.nsi'), template('windows/nsm.nsi', { ...fields, OUTPUT: output }))
    runTool('makensis', ['-V2', ...(packing.isQuick ? ['-X!define QUICK'] : []), 'nsm.nsi'], scratch)
    return output
  })
}

/** wixl writes its own time down, as made and as saved: two times of Windows behind one another [MS-OLEPS 2.15]. */
function withBuildTime(file: Buffer): Buffer {
  const type = Buffer.from([0x40, 0, 0, 0])
  const changed = Buffer.from(file)
  const time = (BigInt(buildTimeS()) + secondsFrom1601) * 10_000_000n
  for (let at = file.indexOf(type); at >= 0; at = file.indexOf(type, at + 1)) {
    if (!file.subarray(at, at + 12).equals(file.subarray(at + 12, at + 24))) continue
    if (file.readBigUInt64LE(at + 4) < secondsFrom1601 * 10_000_000n) continue
    for (const place of [at + 4, at + 16]) changed.writeBigUInt64LE(time, place)
    return changed
  }
  throw new NsmError('BUG', 'the package has no time where one was', 'look at what wixl writes')
}

/** From the beginning of Windows' time to 1970. */
const secondsFrom1601 = 11_644_473_600n

/** [Environment table]: `=-*` sets it for the machine and takes it out; `[~];` appends. Rows end as Windows has it. */
const environmentTable = [
  'Environment\tName\tValue\tComponent_',
  's72\tl255\tL255\ts72',
  'Environment\tEnvironment',
  'PathEntry\t=-*PATH\t[~];[INSTALLDIR]\tProgramFiles_nsm',
  '',
].join('\r\n')

/** Where Windows Installer's own tables have them. */
const environmentActions = [
  ['RemoveEnvironmentStrings', 3_300],
  ['WriteEnvironmentStrings', 5_200],
] as const

function inScratch(
  program: Program,
  { beside }: Packing,
  build: (scratch: string, fields: Readonly<Record<string, string>>) => string,
): string {
  const scratch = mkdtempSync(join(tmpdir(), 'nsm-windows-'))
  try {
    copyFileSync(program.path, join(scratch, 'nsm.exe'))
    writeFileSync(join(scratch, 'LICENSE.txt'), beside.licence)
    writeFileSync(join(scratch, 'THIRD-PARTY-NOTICES.txt'), program.notices)
    writeFileSync(join(scratch, 'nsm.ps1'), beside.completions.get('nsm.ps1') ?? '')
    // The cabinet keeps their times.
    for (const name of readdirSync(scratch)) utimesSync(join(scratch, name), buildTimeS(), buildTimeS())
    return build(scratch, { VERSION: program.version, PRODUCT: guidOf(`product ${program.version}`) })
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function sumOf(path: string): string {
  return hash('sha256', readFileSync(path))
}

/** Every version is a product of its own to Windows Installer; the same version is the same one. */
function guidOf(name: string): string {
  const digits = hash('sha256', `nsm ${name}`).toUpperCase()
  const at = (from: number, to: number) => digits.slice(from, to)
  return `${at(0, 8)}-${at(8, 12)}-5${at(13, 16)}-8${at(17, 20)}-${at(20, 32)}`
}
