import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { readJsonObject } from '../base/json.ts'
import { type Root, rootFromPem, rootToPem, saveRoot } from './ca-root.ts'
import { refusal } from './refusal.ts'

/** A change of the root under way, besides the root of the directory, which is the old one until the end. */
export interface RotationState {
  /** `published`: members learn the new root, the old one signs. `issuing`: the new one signs, the old one is still believed. */
  readonly phase: 'published' | 'issuing'
  /** Wall milliseconds at which the next phase begins by itself. */
  readonly nextMs: number
  readonly next: Root
}

/** Where a change of the root is kept, so that a restart goes on with it. */
export interface RotationStore {
  save(state: RotationState): Promise<void>
  /** Makes the new root the only one; the key of the old one is gone then. */
  finish(state: RotationState): Promise<void>
}

/** Keeps nothing. */
export const noRotationStore: RotationStore = { async save() {}, async finish() {} }

/** The store of an authority's directory. */
export function rotationStore(dir: string): RotationStore {
  return {
    save: (state) => write(dir, state, state.phase),
    async finish(state) {
      await write(dir, state, 'finishing')
      await replaceRoot(dir, state.next)
    },
  }
}

/** The change under way in a directory; one that was cut off while it ended is ended first. Throws `IDENTITY`. */
export async function loadRotation(dir: string): Promise<RotationState | undefined> {
  const path = join(dir, fileName)
  const text = await readPrivateFile(path)
  if (text === undefined) return undefined
  const { phase, nextMs, key, certificate } = readJsonObject(text) ?? {}
  if (typeof nextMs !== 'number' || typeof key !== 'string' || typeof certificate !== 'string') throw broken(path)
  const next = rootFromPem({ key, certificate }, path)
  if (phase === 'published' || phase === 'issuing') return { phase, nextMs, next }
  if (phase !== 'finishing') throw broken(path)
  await replaceRoot(dir, next)
  return undefined
}

const fileName = 'rotation.json'

async function write(dir: string, state: RotationState, phase: string): Promise<void> {
  const { nextMs, next } = state
  await writeFileAtomic(join(dir, fileName), `${JSON.stringify({ phase, nextMs, ...rootToPem(next) }, undefined, 2)}\n`)
}

async function replaceRoot(dir: string, next: Root): Promise<void> {
  await saveRoot(dir, next)
  await rm(join(dir, fileName))
}

function broken(path: string) {
  return refusal('STATE_INVALID', `${path} cannot be read`, { next: 'put it back from a backup' })
}
