import type { CommandDescription, FlagDescription } from '../../src/ui/describe-command.ts'

/** The completion file of each shell, by the name it is installed under. */
export function completions(commands: readonly CommandDescription[]): ReadonlyMap<string, string> {
  const places = completionPlaces(commands)
  return new Map([
    ['nsm.bash', bash(places)],
    ['_nsm', zsh(places)],
    ['nsm.fish', fish(commands)],
    ['nsm.ps1', powershell(places)],
  ])
}

/** What may follow the words `after` (none, one or two): words, and with a dash the flags. */
export interface CompletionPlace {
  readonly after: string
  readonly words: readonly string[]
}

/** Every place of the command line where words are known; the more words a place has, the earlier it comes. */
export function completionPlaces(commands: readonly CommandDescription[]): readonly CompletionPlace[] {
  const named = commands.flatMap((command) => [command.id, ...command.aliases].map((name) => ({ name, command })))
  const topics = new Set(named.filter(({ name }) => name.includes(' ')).map(({ name }) => topicOf(name)))
  const first = new Set([...named.map(({ name }) => topicOf(name)), 'help'])
  return [
    ...named.map(({ name, command }) => ({ after: name, words: command.flags.map(flagName) })),
    ...[...topics].map((topic) => ({ after: topic, words: verbsOf(topic) })),
    { after: 'help', words: [...first].filter((word) => word !== 'help') },
    { after: '', words: [...first, '--help', '--version'] },
  ].sort((a, b) => wordCount(b.after) - wordCount(a.after))

  function verbsOf(topic: string): string[] {
    return named.filter(({ name }) => name.startsWith(`${topic} `)).map(({ name }) => name.slice(topic.length + 1))
  }
}

const topicOf = (name: string) => name.split(' ')[0] ?? ''
const wordCount = (name: string) => (name === '' ? 0 : name.split(' ').length)
const flagName = ({ label }: FlagDescription) => /--[a-z0-9-]+/.exec(label)?.[0] ?? ''

/** Files complete where no word fits. */
function bash(places: readonly CompletionPlace[]): string {
  return [
    '# bash completion of nsm',
    '_nsm() {',
    '  local words',
    `  case "$COMP_CWORD \${COMP_WORDS[1]-} \${COMP_WORDS[2]-} " in`,
    ...places.map(({ after, words }) => `    ${pattern(after)}) words='${words.join(' ')}' ;;`),
    '  esac',
    `  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))`,
    '}',
    'complete -o default -F _nsm nsm',
    '',
  ].join('\n')
}

function zsh(places: readonly CompletionPlace[]): string {
  return [
    '#compdef nsm',
    `case "$((CURRENT - 1)) \${words[2]-} \${words[3]-} " in`,
    ...places.map(({ after, words }) => `  ${pattern(after)}) compadd -- ${words.join(' ')} ;;`),
    'esac',
    '_files',
    '',
  ].join('\n')
}

/** Of the position, and the first two words: a place is meant behind its words only. */
function pattern(after: string): string {
  if (after === '') return '1\\ *'
  return after.includes(' ')
    ? `[!12]\\ ${after.replace(' ', '\\ ')}\\ *|[1-9][0-9]\\ ${after.replace(' ', '\\ ')}\\ *`
    : `[!1]\\ ${after}\\ *|[1-9][0-9]\\ ${after}\\ *`
}

function fish(commands: readonly CommandDescription[]): string {
  const lines = commands.flatMap((command) => {
    const [topic = '', verb] = command.id.split(' ')
    const names = [topic, ...command.aliases].join(' ')
    const here = `__fish_seen_subcommand_from ${names}${verb ? `; and __fish_seen_subcommand_from ${verb}` : ''}`
    const before = verb ? `__fish_seen_subcommand_from ${topic}` : '__fish_use_subcommand'
    return [
      `complete -c nsm -n ${quoted(before)} -a ${quoted(verb ?? names)} -d ${quoted(command.summary)}`,
      ...command.flags.map((flag) => `complete -c nsm -n ${quoted(here)} ${fishFlag(flag)} -d ${quoted(flag.summary)}`),
    ]
  })
  const topics = [...new Set(commands.filter(({ id }) => id.includes(' ')).map(({ id }) => topicOf(id)))]
  const topicLine = `complete -c nsm -n __fish_use_subcommand -a ${quoted([...topics, 'help'].join(' '))}`
  const helped = completionPlaces(commands).find(({ after }) => after === 'help')?.words ?? []
  const helpLine = `complete -c nsm -n '__fish_seen_subcommand_from help' -a ${quoted(helped.join(' '))}`
  return `${['# fish completion of nsm', topicLine, helpLine, ...lines].join('\n')}\n`
}

function fishFlag(flag: FlagDescription): string {
  const [, values] = / ([a-z-]+(?:\|[a-z-]+)+)$/.exec(flag.label) ?? []
  const takes = flag.label.includes(' ') ? ' -r' : ''
  return `-l ${flagName(flag).slice(2)}${takes}${values ? ` -a ${quoted(values.replaceAll('|', ' '))}` : ''}`
}

function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}

function powershell(places: readonly CompletionPlace[]): string {
  const rows = places.map(({ after, words }) => `  '${after}' = '${words.join(' ')}'`)
  return `# PowerShell completion of nsm
$nsmWords = @{
${rows.join('\n')}
}
Register-ArgumentCompleter -Native -CommandName nsm -ScriptBlock {
  param($typed, $ast, $position)
  $said = @($ast.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
  if ($typed -ne '') { $said = @($said | Select-Object -SkipLast 1) }
  foreach ($count in 2, 1, 0) {
    if ($said.Count -lt $count) { continue }
    $after = ($said | Select-Object -First $count) -join ' '
    if (-not $nsmWords.ContainsKey($after)) { continue }
    if ($count -eq 0 -and $said.Count -gt 0) { continue }
    $nsmWords[$after] -split ' ' | Where-Object { $_ -like "$typed*" } | ForEach-Object {
      [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
    break
  }
}
`
}
