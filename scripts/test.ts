import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

/** `npm test [-- FILE ...]`: runs every test and ends with one line `N passed, N failed[, N skipped]`. */
const root = resolve(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'nsm-test-'))
const report = join(scratch, 'report.json')
try {
  const exitCode = await runVitest()
  const { passed, failed, skipped } = counts(exitCode)
  process.stdout.write(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
  process.exitCode = failed > 0 ? 1 : 0
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

function runVitest(): Promise<number> {
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const args = [join(root, 'node_modules/vitest/vitest.mjs'), 'run', ...reporters, ...process.argv.slice(2)]
  const child = spawn(process.execPath, args, { cwd: root, stdio: 'inherit' })
  return new Promise((settle) => child.once('close', (code) => settle(code ?? 1)))
}

interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

/** The counts of the report; a file that does not load, or a failure outside every test, counts as one failed. */
function counts(exitCode: number): Counts {
  const read = readReport()
  const files = read.testResults ?? []
  const unloaded = files.filter((file) => file.status === 'failed' && (file.assertionResults ?? []).length === 0).length
  const failed = (read.numFailedTests ?? 0) + unloaded
  return {
    passed: read.numPassedTests ?? 0,
    failed: failed === 0 && exitCode !== 0 ? 1 : failed,
    skipped: (read.numPendingTests ?? 0) + (read.numTodoTests ?? 0),
  }
}

interface VitestReport {
  readonly numPassedTests?: number
  readonly numFailedTests?: number
  readonly numPendingTests?: number
  readonly numTodoTests?: number
  readonly testResults?: readonly { readonly status: string; readonly assertionResults?: readonly unknown[] }[]
}

function readReport(): VitestReport {
  try {
    return JSON.parse(readFileSync(report, 'utf8'))
  } catch {
    return {}
  }
}
