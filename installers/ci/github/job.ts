import { spawnSync } from 'node:child_process'
import { appendFile } from 'node:fs/promises'
import { NsmError, toNsmError } from '../../../src/base/errors.ts'

/** Variables of the job. */
export type Environment = Readonly<Record<string, string | undefined>>

/** Runs a step of the job, which gives its exit code; a failure is shown as the job's error. */
export async function step(act: (environment: Environment) => Promise<number>): Promise<void> {
  try {
    process.exitCode = await act(process.env)
  } catch (thrown) {
    const { code, exitCode, message, next } = toNsmError(thrown)
    process.stdout.write(`::error title=nsm (${code})::${oneLine(`${message}. ${next}`)}\n`)
    process.exitCode = exitCode
  }
}

/** The value of an input, empty when it is not given; the runner has it as a variable. */
export function input(environment: Environment, name: string): string {
  return environment[`INPUT_${name.toUpperCase()}`]?.trim() ?? ''
}

/** Adds a line to one of the files by which a step speaks to the runner. */
export async function say(environment: Environment, file: string, line: string): Promise<void> {
  const path = environment[file]
  if (path) await appendFile(path, `${line}\n`)
}

/** Runs the program as root, with the job's output, and gives its exit code. */
export function runAsRoot(program: string, args: readonly string[], environment: Environment): number {
  const [command = '', ...words] = rootWords(program, environment, process.getuid?.() ?? 0)
  const { error, status } = spawnSync(command, [...words, ...args], { env: environment, stdio: 'inherit' })
  if (error) throw new NsmError('PERMISSION', `${command} does not start: ${error.message}`, 'run the job as root')
  if (status === null) throw new NsmError('LOST', `nsm ${args[0]} was killed`, 'run the job again')
  return status
}

/** What runs the program as root. Variables go by name: a token on a command line is there for all to read. */
export function rootWords(program: string, environment: Environment, uid: number): readonly string[] {
  if (uid === 0) return [program]
  const names = Object.keys(environment).filter((name) =>
    /^(NSM_\w+|ACTIONS_ID_TOKEN_\w+|GITHUB_ACTIONS|CI)$/.test(name),
  )
  return ['sudo', '--non-interactive', `--preserve-env=${names.join(',')}`, '--', program]
}

/** As the runner reads a message [GitHub Actions workflow commands]. */
function oneLine(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')
}
