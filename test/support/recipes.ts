import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** A fenced block of a document: what its first line says of it, and its lines. */
export interface Block {
  /** `console`, `yaml`, or `json NAME` for the content of a file. */
  readonly kind: string
  readonly text: string
}

/** The blocks below a heading of docs/identity.md, down to the next heading. */
export function recipe(title: string): readonly Block[] {
  const document = readFileSync(resolve(import.meta.dirname, '../../docs/identity.md'), 'utf8')
  const [, after] = document.split(`\n### Recipe: ${title}\n`)
  if (after === undefined) throw new Error(`docs/identity.md has no recipe: ${title}`)
  const [section = ''] = after.split(/\n#{2,3} /)
  return [...section.matchAll(/^```(\S.*)\n([\s\S]*?)^```$/gm)].map(([, kind = '', text = '']) => ({ kind, text }))
}

/** A line of a `console` block. */
export interface Line {
  readonly machine: string
  readonly command: string
}

/** What is typed in a `console` block, on which machine. */
export function linesOf({ text }: Block): readonly Line[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [, machine, command] = /^(\w+)[$#] (.+)$/.exec(line) ?? []
      if (machine === undefined || command === undefined) throw new Error(`no command of a machine: ${line}`)
      return { machine, command }
    })
}
