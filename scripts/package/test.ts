import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

/**
 * `npm run test:packed [-- FILE ...]`: the tests of the one-file executable, and every end-to-end test that runs the program,
 * on `dist/nsm`, which is built when it is not there.
 */
const root = resolve(import.meta.dirname, '../..')
const program = process.env['NSM_PROGRAM'] ?? join(root, 'dist/nsm')
if (!existsSync(program)) need(run('scripts/package/package.ts', []))
const named = process.argv.slice(2)
const tests = named.length > 0 ? named : ['test/packed', ...testsOfTheProgram()]
process.exitCode = run('scripts/test.ts', tests)

/** The tests that start the program, themselves or by the rig of namespaces. */
function testsOfTheProgram(): readonly string[] {
  const folders = ['test/cli', 'test/netns']
  return folders
    .flatMap((folder) => readdirSync(join(root, folder)).map((file) => join(folder, file)))
    .filter((file) => file.endsWith('.test.ts'))
    .filter((file) => /nsm-program|mesh-rig|demo\//.test(readFileSync(join(root, file), 'utf8')))
}

function run(script: string, args: readonly string[]): number {
  const env = { ...process.env, NSM_PROGRAM: program }
  return spawnSync(process.execPath, [join(root, script), ...args], { cwd: root, env, stdio: 'inherit' }).status ?? 1
}

function need(exitCode: number): void {
  if (exitCode !== 0) process.exit(exitCode)
}
