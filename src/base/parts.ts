import { readFileSync } from 'node:fs'
import { getRawAsset, isSea } from 'node:sea'

/** True in the one-file executable: there is no file beside the code, and every part is inside. */
export const inOneFile = isSea()

/** A part by its name in the executable, or of a checkout the file at `beside`; a view that nobody may write. */
export function readPart(name: string, beside: URL): Uint8Array<ArrayBuffer> {
  return inOneFile ? partOf(name) : readFileSync(beside)
}

/** A part that only the executable has. */
export function partOf(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(getRawAsset(name))
}
