import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { Beside, Program } from './program.ts'

const installers = resolve(import.meta.dirname, '../../installers')

/** Where distributions differ. */
export interface UnixPlaces {
  readonly units: string
  readonly zsh: string
}

/** Writes a file into the tree, with the directories that it needs. */
export type Put = (path: string, content: string | Uint8Array, mode?: number) => void

/** Lays the files of an installation out under `tree`; what is given back adds more. */
export function writeUnixTree(tree: string, { program, beside, places }: UnixContent): Put {
  const put: Put = (path, content, mode = 0o644) => {
    mkdirSync(join(tree, dirname(path)), { recursive: true, mode: 0o755 })
    writeFileSync(join(tree, path), content, { mode })
  }
  put('usr/bin/nsm', '', 0o755)
  copyFileSync(program.path, join(tree, 'usr/bin/nsm'))
  put('usr/share/man/man1/nsm.1.gz', gzipSync(beside.manPage, { level: 9 }))
  put('usr/share/bash-completion/completions/nsm', beside.completions.get('nsm.bash') ?? '')
  put(join(places.zsh, '_nsm'), beside.completions.get('_nsm') ?? '')
  put('usr/share/fish/vendor_completions.d/nsm.fish', beside.completions.get('nsm.fish') ?? '')
  put('usr/share/doc/nsm/copyright', readFileSync(join(installers, 'copyright')))
  put('usr/share/doc/nsm/THIRD-PARTY-NOTICES.gz', gzipSync(program.notices, { level: 9 }))
  put(join(places.units, 'nsm-serve.service'), readFileSync(join(installers, 'nsm-serve.service')))
  return put
}

/** What is laid out, and where. */
export interface UnixContent {
  readonly program: Program
  readonly beside: Beside
  readonly places: UnixPlaces
}

/** A template of `installers/`, with `@NAME@` replaced by the field of that name. */
export function template(path: string, fields: Readonly<Record<string, string>> = {}): string {
  return readFileSync(join(installers, path), 'utf8').replace(/@([A-Z0-9_]+)@/g, (whole, name) => fields[name] ?? whole)
}
