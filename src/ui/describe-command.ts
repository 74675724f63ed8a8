import type { CommandClass } from './nsm-command.ts'

/** A command as its help and its page in `docs/commands` show it. */
export interface CommandDescription {
  readonly id: string
  readonly aliases: readonly string[]
  readonly summary: string
  readonly usage: string
  readonly description: string
  readonly args: readonly { readonly name: string; readonly description: string }[]
  readonly flags: readonly FlagDescription[]
  readonly examples: readonly string[]
}

/** One flag of a command. */
export interface FlagDescription {
  /** As it is typed, with its value: `--timeout DURATION`. */
  readonly label: string
  readonly summary: string
  readonly environment: string | undefined
  readonly defaultText: string | undefined
}

/** Reads the description of a command from its class. */
export function describeCommand(entry: {
  readonly id: string
  readonly aliases: readonly string[]
  readonly summary: string
  readonly command: CommandClass
}): CommandDescription {
  const { command } = entry
  const args = Object.entries(command.args).map(([name, arg]) => ({
    name: arg.multiple === true ? `${name.toUpperCase()}...` : name.toUpperCase(),
    description: arg.description ?? '',
    required: arg.required === true,
  }))
  const usage = ['nsm', entry.id, ...args.map(({ name, required }) => (required ? name : `[${name}]`)), '[flags]']
  return {
    id: entry.id,
    aliases: entry.aliases,
    summary: entry.summary,
    usage: usage.join(' '),
    description: command.description ?? '',
    args,
    flags: [...flagDescriptions(command), jsonFlag],
    examples: (command.examples ?? []).map(String),
  }
}

const jsonFlag: FlagDescription = {
  label: '--json',
  summary: 'print one JSON document, also on failure',
  environment: undefined,
  defaultText: undefined,
}

function flagDescriptions(command: CommandClass): FlagDescription[] {
  return Object.entries(command.flags).map(([name, flag]) => {
    const value = flag.type === 'option' ? ` ${flag.helpValue ?? 'TEXT'}` : ''
    const short = flag.char ? `-${flag.char}, ` : ''
    const repeat = flag.type === 'option' && flag.multiple === true ? ' (repeatable)' : ''
    return {
      label: `${short}--${name}${value}`,
      summary: `${flag.summary ?? ''}${repeat}`,
      environment: flag.env,
      defaultText: typeof flag.default === 'string' ? flag.default : undefined,
    }
  })
}
