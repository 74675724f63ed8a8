import { readFile } from 'node:fs/promises'
import { NsmError } from './errors.ts'

/** Reads a file that the user has named as text; throws `USAGE`. */
export async function readSettingsFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    throw new NsmError('USAGE', `${path} cannot be read`, 'check the path and its permissions', { cause })
  }
}
