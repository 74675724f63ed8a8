import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { completionPlaces, completions } from '../../scripts/package/completions.ts'
import { manPage } from '../../scripts/package/man-page.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { describe as describeEntry } from '../../src/commands/main.ts'
import type { CommandDescription } from '../../src/ui/describe-command.ts'

const dir = mkdtempSync(join(tmpdir(), 'nsm-completions-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
let commands: readonly CommandDescription[] = []
let files: ReadonlyMap<string, string> = new Map()
beforeAll(async () => {
  commands = await Promise.all(commandTable.map(describeEntry))
  files = completions(commands)
  for (const [name, text] of files) writeFileSync(join(dir, name), text)
})

const has = (program: string) => spawnSync(program, ['--version']).status === 0
const flagsOf = (id: string) =>
  (commands.find((command) => command.id === id)?.flags ?? []).map(({ label }) => /--[a-z0-9-]+/.exec(label)?.[0])

describe('the completions', () => {
  test('know every command, alias and flag in every shell', () => {
    for (const [name, text] of files) {
      for (const command of commands) {
        for (const word of [...command.id.split(' '), ...command.aliases]) expect(text, name).toContain(word)
        for (const flag of flagsOf(command.id)) {
          expect(text, `${name} ${command.id}`).toContain(name === 'nsm.fish' ? `-l ${flag?.slice(2)} ` : flag)
        }
      }
    }
  })

  test('name each place once, the longest first', () => {
    const after = completionPlaces(commands).map((place) => place.after)
    expect(new Set(after).size).toBe(after.length)
    expect(after.at(-1)).toBe('')
    expect(after.findIndex((name) => !name.includes(' '))).toBe(after.filter((name) => name.includes(' ')).length)
  })

  const typed: readonly (readonly [string, readonly string[], () => readonly (string | undefined)[]])[] = [
    ['the first word', ['co'], () => ['connect']],
    ['an alias', ['dow'], () => ['down']],
    ['a topic', ['dn'], () => ['dns']],
    [
      'every verb of a topic',
      ['dns', ''],
      () => commandTable.filter(({ id }) => id.startsWith('dns ')).map(({ id }) => id.slice(4)),
    ],
    ['the beginning of a verb', ['dns', 'fl'], () => ['flush']],
    ['the flags of a command', ['connect', '--'], () => flagsOf('connect')],
    ['the flags of an alias', ['up', '--dns-'], () => ['--dns-mode']],
    ['the flags of a verb', ['dns', 'query', '--'], () => flagsOf('dns query')],
    ['flags behind other words', ['connect', 'a', 'b', '--jo'], () => ['--join']],
    ['flags in the tenth place', ['connect', ...'abcdefgh', '--jo'], () => ['--join']],
    ['what help takes', ['help', 'stat'], () => ['status']],
    ['nothing for an unknown command', ['nothing', '--'], () => []],
  ]
  test.each(typed)('complete %s in bash', (_what, words, expected) => {
    const line = ['nsm', ...words]
    const script = `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=${line.length - 1}; _nsm; printf '%s\\n' "\${COMPREPLY[@]}"`
    const out = execFileSync('bash', ['-c', script, 'bash', join(dir, 'nsm.bash'), ...line], { encoding: 'utf8' })
    expect(
      out
        .split('\n')
        .filter((word) => word !== '')
        .sort(),
    ).toEqual([...expected()].sort())
  })

  test.skipIf(!has('zsh'))('are zsh (needs zsh)', () => {
    expect(spawnSync('zsh', ['-n', join(dir, '_nsm')], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' })
  })

  // The shell keeps of the words it is given those that begin with what was typed.
  test.skipIf(!has('zsh')).each(typed)('complete %s in zsh (needs zsh)', (_what, words, expected) => {
    const script =
      'compadd() { shift; print -rl -- "$@" }; _files() { :; }; file=$1; shift; words=("$@"); CURRENT=$#words; . "$file"'
    const out = execFileSync('zsh', ['-fc', script, 'zsh', join(dir, '_nsm'), 'nsm', ...words], { encoding: 'utf8' })
    const begun = out.split('\n').filter((word) => word !== '' && word.startsWith(words.at(-1) ?? ''))
    expect(begun.sort()).toEqual([...expected()].sort())
  })

  test.skipIf(!has('fish'))('are fish (needs fish)', () => {
    expect(spawnSync('fish', ['--no-execute', join(dir, 'nsm.fish')])).toMatchObject({ status: 0 })
  })

  test.skipIf(!has('fish')).each(typed)('complete %s in fish (needs fish)', (_what, words, expected) => {
    const script = `source $argv[1]; complete -C (string join -- ' ' nsm $argv[2..])`
    const out = execFileSync('fish', ['-Nc', script, join(dir, 'nsm.fish'), ...words], { encoding: 'utf8' })
    const offered = out.split('\n').map((line) => line.split('\t')[0] ?? '')
    expect(offered).toEqual(expect.arrayContaining([...expected()]))
  })

  const start: Readonly<Record<string, string>> = {
    bash: 'bash --noprofile --norc -i',
    zsh: 'zsh -fi',
    fish: 'fish -Ni',
  }
  const load: Readonly<Record<string, (dir: string) => string>> = {
    bash: (dir) => `. ${dir}/nsm.bash`,
    zsh: (dir) => `fpath=(${dir} $fpath); autoload -Uz compinit; compinit -D -u`,
    fish: (dir) => `source ${dir}/nsm.fish`,
  }
  test.skipIf(!has('script')).each(Object.keys(start).filter(has))(
    'complete at the tab key of a person at a terminal of %s (needs script)',
    (shell) => {
      const place = mkdtempSync(join(dir, 'typed-'))
      mkdirSync(join(place, 'bin'))
      const told = join(place, 'told')
      writeFileSync(join(place, 'bin/nsm'), `#!/bin/sh\nprintf '%s|' "$@" >> ${told}\necho >> ${told}\n`)
      chmodSync(join(place, 'bin/nsm'), 0o755)
      const keys = [load[shell]?.(dir), 'nsm conn\t--jo\tfile', 'nsm dns tra\tname', 'nsm sta\t--js\t', 'exit', '']
      const env = { PATH: `${place}/bin:${process.env['PATH']}`, HOME: place, TERM: 'xterm', LC_ALL: 'C.UTF-8' }
      const said = spawnSync('script', ['-qec', start[shell] ?? '', '/dev/null'], {
        cwd: place,
        env,
        input: keys.join('\r'),
        encoding: 'utf8',
      })
      expect([said.status, readFileSync(told, 'utf8').split('\n')]).toEqual([
        0,
        ['connect|--join|file|', 'dns|trace|name|', 'status|--json|', ''],
      ])
    },
  )

  test('are PowerShell: a table of each place, and nothing in it that ends a string or begins an expression', () => {
    const script = files.get('nsm.ps1') ?? ''
    const rows = [...script.matchAll(/^ {2}'([a-z -]*)' = '([a-z0-9 -]*)'$/gm)].map(([, after, words]) => ({
      after,
      words,
    }))
    expect(rows).toEqual(completionPlaces(commands).map(({ after, words }) => ({ after, words: words.join(' ') })))
    expect(script.match(/'/g)?.length).toBe(4 * rows.length + 8)
  })
})

describe('the manual page', () => {
  test('has every command with every flag, and every exit code', () => {
    const page = manPage(commands, '1.2.3')
    expect(page.split('\n')[0]).toMatch(/^\.TH NSM 1 "\d{4}-\d\d-\d\d" "nsm 1\.2\.3" "User Commands"$/)
    for (const { usage, flags } of commands) {
      for (const line of [usage, ...flags.map(({ label }) => label)])
        expect(page).toContain(line.replaceAll('-', '\\-'))
    }
    for (const exit of ['9 PERMISSION', '8 CONFLICT', '128+n']) expect(page).toContain(`.B ${exit}`)
  })

  test.skipIf(!has('man') || !has('groff'))('is taken by man without a warning (needs man, groff)', () => {
    const path = join(dir, 'nsm.1')
    writeFileSync(path, manPage(commands, '1.2.3'))
    const env = { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '80', MANROFFSEQ: '' }
    const words = ['--warnings', '-E', 'UTF-8', '-l', '-Tutf8', '-Z', path]
    const { status, stderr } = spawnSync('man', words, { env, encoding: 'utf8', maxBuffer: 16 * 1_024 * 1_024 })
    expect([status, stderr]).toEqual([0, ''])
  })

  test.skipIf(spawnSync('mandoc', ['-h']).error !== undefined)(
    'has nothing to warn of for mandoc (needs mandoc)',
    () => {
      const input = manPage(commands, '1.2.3')
      // Texts for people are lines of up to 120 characters here.
      const said = spawnSync('mandoc', ['-T', 'lint', '-W', 'warning'], { input, encoding: 'utf8' })
      expect([said.status, said.stdout]).toEqual([0, ''])
    },
  )

  test('has no line that roff takes for a request but its own', () => {
    const page = manPage([{ ...(commands[0] ?? fail()), description: ".so /etc/passwd\n'br\n\\fB" }], '1')
    expect(page).toContain("\\&.so /etc/passwd\n\\&'br\n\\efB")
    for (const line of page.split('\n')) if (/^[.']/.test(line)) expect(line).toMatch(/^\.(TH|SH|SS|B|TP|PP|nf|fi)\b/)
  })
})

function fail(): never {
  return expect.fail('no command')
}
