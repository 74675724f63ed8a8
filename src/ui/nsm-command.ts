import { Command } from '@oclif/core/command'
import { Config } from '@oclif/core/config'
import type { Hook, Hooks } from '@oclif/core/hooks'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createLog, type Log, type LogLevel } from '../base/log.ts'
import type { CommandContext, DaemonConnection } from './command-context.ts'
import { errorJson, errorText } from './error-text.ts'

/** A command class of the table. */
export interface CommandClass {
  start(argv: readonly string[], context: CommandContext): Promise<number>
  readonly args: typeof Command.args
  readonly flags: typeof Command.flags
  readonly enableJsonFlag: boolean
  readonly description: string | undefined
  readonly examples: typeof Command.examples
}

/**
 * The base of every command: parse, one call, show. Errors leave in one shape in both modes: with `--json` one document
 * on standard output, otherwise text on standard error; the exit code is the error table's.
 */
export abstract class NsmCommand extends Command {
  static override enableJsonFlag = true
  static override flags: typeof Command.flags = {}
  readonly context: CommandContext
  #exitCode = 0

  constructor(argv: string[], config: NsmConfig) {
    super(argv, config)
    this.context = config.context
  }

  /** Runs the command and gives its exit code; never throws. */
  static async start<T extends NsmCommand>(
    this: new (
      argv: string[],
      config: NsmConfig,
    ) => T,
    argv: readonly string[],
    context: CommandContext,
  ): Promise<number> {
    const command = new this([...argv], new NsmConfig(context))
    await command._run()
    return command.#exitCode
  }

  /** Calls the background process and lets go of it afterwards; `start` says whether one is started when none runs. */
  protected async withDaemon<T>(start: boolean, call: (daemon: DaemonConnection) => Promise<T>): Promise<T> {
    const daemon = await this.context.connectDaemon(this.context.settings, { start })
    try {
      return await call(daemon)
    } finally {
      await daemon.close()
    }
  }

  /** As `withDaemon`, but starts none: `absent` is the answer when none runs. One that hangs still holds what it has. */
  protected async askIfRunning<T>(absent: T, call: (daemon: DaemonConnection) => Promise<T>): Promise<T> {
    try {
      return await this.withDaemon(false, call)
    } catch (error) {
      const { AbsentPeer } = await import('../daemon/rpc-client.ts')
      if (error instanceof AbsentPeer) return absent
      throw error
    }
  }

  /** A log to standard error for commands that work in this process. */
  protected processLog(level: LogLevel): Log {
    const { writeError, wallMs } = this.context
    return createLog({ level, format: 'text', write: writeError, wallMs })
  }

  /** The exit code of a command that ends well but does not report success. */
  protected endWith(exitCode: number): void {
    this.#exitCode = exitCode
  }

  protected override async catch(thrown: unknown): Promise<void> {
    const error = fromParser(thrown) ?? toNsmError(thrown)
    this.#exitCode = error.exitCode
    this.parsed = true
    if (this.jsonEnabled()) this.context.writeOut(errorJson(error))
    else this.context.writeError(errorText(error))
  }

  override log(message = ''): void {
    if (!this.jsonEnabled()) this.context.writeOut(message)
  }

  protected override logJson(json: unknown): void {
    this.context.writeOut(JSON.stringify(json, undefined, 2))
  }
}

/** oclif's settings without its discovery: the commands are a table, and there are no plugins and no hooks. */
export class NsmConfig extends Config {
  readonly context: CommandContext

  constructor(context: CommandContext) {
    super({ root: import.meta.dirname })
    this.context = context
    this.bin = 'nsm'
    this.name = 'nsm'
  }

  override async runHook<T extends keyof Hooks, P extends Hooks = Hooks>(): Promise<Hook.Result<P[T]['return']>> {
    return { failures: [], successes: [] }
  }
}

/** An error of oclif's parser: an unknown flag, a missing or extra argument. Its first line says it all. */
function fromParser(thrown: unknown): NsmError | undefined {
  if (!(thrown instanceof Error) || !('oclif' in thrown)) return undefined
  const [first = 'the command line cannot be understood'] = thrown.message.split('\nSee more help')
  return new NsmError('USAGE', first, 'add --help to see what the command takes', { cause: thrown })
}
