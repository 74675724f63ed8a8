import { NsmError } from '../../src/base/errors.ts'

/**
 * The program of Node with the names of variables made empty that it reads itself before any script, and that no flag turns
 * off: by an empty name nothing is found. Throws `BUG` when it has a name never or twice.
 */
export function withoutVariables(program: Buffer): Buffer {
  const changed = Buffer.from(program)
  for (const name of unreadVariables) {
    const places = placesOf(program, name)
    if (places.length !== 1)
      throw new NsmError('BUG', `${name} is ${places.length} times in Node`, 'look at who reads it')
    changed.fill(0, places[0], (places[0] ?? 0) + name.length)
  }
  return changed
}

/** [Node command-line API, environment variables], [ICU data, environment]: each names a file or folder, or makes Node talk. */
export const unreadVariables = [
  'ICU_TIMEZONE_FILES_DIR',
  'NODE_COMPILE_CACHE',
  'NODE_DEBUG_NATIVE',
  'NODE_EXTRA_CA_CERTS',
  'NODE_ICU_DATA',
  'NODE_REPL_EXTERNAL_MODULE',
  'NODE_V8_COVERAGE',
]

/** Where it is a string of C. The strings of V8's snapshot, which stay as they are, have their length before them. */
function placesOf(program: Buffer, name: string): readonly number[] {
  const text = Buffer.from(`\0${name}\0`, 'latin1')
  const places: number[] = []
  for (let at = program.indexOf(text); at >= 0; at = program.indexOf(text, at + 1)) {
    if (program.readUInt32LE(Math.max(at - 3, 0)) !== name.length) places.push(at + 1)
  }
  return places
}
