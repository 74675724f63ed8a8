import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const sourceRoot = resolve(import.meta.dirname, '../src')

/** Which folders each folder may import, type imports too. The order is the order of reading. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  base: [],
  ipam: ['base'],
  dns: ['base'],
  tunnel: ['base'],
  identity: ['base'],
  nsm: ['base', 'identity'],
  registry: ['base', 'nsm'],
  connection: ['base', 'ipam', 'dns', 'tunnel', 'nsm'],
  endpoint: ['base', 'ipam', 'dns', 'tunnel', 'nsm', 'registry', 'connection'],
  daemon: ['base', 'ipam', 'dns', 'tunnel', 'identity', 'nsm', 'registry', 'connection', 'endpoint'],
  ui: ['base', 'daemon'],
  commands: ['base', 'daemon', 'ui'],
}

/** What no source file may contain, and why. `except` names the files for which it is the job. */
const banned: readonly { readonly pattern: RegExp; readonly why: string; readonly except?: RegExp }[] = [
  { pattern: /\bconsole\./, why: 'results go through ui/, the rest through base/log' },
  { pattern: /\bprocess\.exit\(/, why: 'only bin/ ends the process' },
  { pattern: /\bprocess\.platform\b/, why: 'only open.ts asks which OS this is', except: /(^|\/)open\.ts$/ },
  { pattern: /\bthrow new Error\(/, why: 'every error has a code: NsmError' },
  { pattern: /\b(TODO|FIXME|XXX)\b/, why: 'finish it or leave it out' },
  { pattern: /^\s*void \[/m, why: 'a bundler leaves it out: what must stay in memory has to be used' },
  { pattern: /@ts-ignore|@ts-expect-error|biome-ignore/, why: 'mend the cause' },
]

/** Engines think; they get the time as an argument. */
const engineFiles =
  /^(ipam\/.*|dns\/(message|scope|cache|classify|question|wire)\.ts|connection\/(lifecycle|bounds)\.ts|tunnel\/wireguard\/engine\.ts)$/
const notInEngines = /\b(Date\.now|setTimeout|setInterval|Math\.random)\b/

const files = readdirSync(sourceRoot, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts') && !file.includes('generated'))
  .sort()
const folderOf = (file: string) => file.split('/')[0] ?? ''

describe('architecture', () => {
  test.each(files)('%s imports only what its folder may', (file) => {
    const folder = folderOf(file)
    const reachable = [folder, ...(allowed[folder] ?? [])]
    for (const target of importsOf(file)) expect(reachable, `${file} imports ${target}`).toContain(folderOf(target))
  })

  test.each(files)('%s has no more than 400 lines and nothing that is banned', (file) => {
    const text = read(file)
    expect(text.split('\n').length, file).toBeLessThanOrEqual(401)
    for (const { pattern, why, except } of banned) {
      if (!except?.test(file)) expect(text, `${file}: ${why}`).not.toMatch(pattern)
    }
    if (engineFiles.test(file)) expect(text, `${file} is an engine`).not.toMatch(notInEngines)
  })

  test('the import graph has no knot', () => {
    const state = new Map<string, 'open' | 'done'>()
    const visit = (file: string, trail: readonly string[]): void => {
      if (state.get(file) === 'done') return
      expect(state.get(file), [...trail, file].join(' -> ')).not.toBe('open')
      state.set(file, 'open')
      for (const target of importsOf(file)) if (files.includes(target)) visit(target, [...trail, file])
      state.set(file, 'done')
    }
    for (const file of files) visit(file, [])
  })
})

function read(file: string): string {
  return readFileSync(join(sourceRoot, file), 'utf8')
}

function importsOf(file: string): string[] {
  const specifiers = read(file).matchAll(/(?:from|import)\s*\(?\s*'(\.{1,2}\/[^']+)'/g)
  return [...specifiers].map(([, path = '']) => relative(sourceRoot, resolve(sourceRoot, dirname(file), path)))
}
