import { NsmError } from '../../src/base/errors.ts'

/* Windows executables [PE format]. All numbers are little-endian. */

/** The file without its Authenticode signature: what is added later would make it invalid. */
export function withoutSignature(file: Buffer): Buffer {
  const entry = certificateEntry(file)
  const at = file.readUInt32LE(entry)
  const length = file.readUInt32LE(entry + 4)
  if (length === 0) return file
  if (at + length !== file.length) throw new NsmError('BUG', 'the signature is not the end of the file', 'look at it')
  const unsigned = Buffer.from(file.subarray(0, at))
  unsigned.fill(0, entry, entry + 8)
  return unsigned
}

/** Whether the file carries an Authenticode signature. */
export function isSigned(file: Buffer): boolean {
  return file.readUInt32LE(certificateEntry(file) + 4) > 0
}

/** The file without a checksum, which Windows asks of drivers alone: what was added has made it wrong. */
export function withoutChecksum(file: Buffer): Buffer {
  const unsummed = Buffer.from(file)
  unsummed.writeUInt32LE(0, optionalHeader(file) + checksumAt)
  return unsummed
}

/** Where the table of certificates is named: the fifth data directory of the optional header [PE format, PE32+]. */
function certificateEntry(file: Buffer): number {
  return optionalHeader(file) + directoriesAt + 4 * 8
}

function optionalHeader(file: Buffer): number {
  const header = file.readUInt32LE(0x3c)
  const optional = header + 24
  if (file.toString('latin1', header, header + 4) !== 'PE\0\0' || file.readUInt16LE(optional) !== pe32Plus) {
    throw new NsmError('BUG', 'this is no 64-bit Windows executable', 'look at the package it came from')
  }
  return optional
}

const pe32Plus = 0x20b
const checksumAt = 64
const directoriesAt = 112
