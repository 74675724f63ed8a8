import { hash } from 'node:crypto'
import { NsmError } from '../../src/base/errors.ts'

/* Apple silicon runs no code without a signature. An ad-hoc one names no signer: it holds the hash of every page. The
 * container is little-endian, the signature big-endian [Mach-O; xnu osfmk/kern/cs_blobs.h]. */

const machO64 = 0xfeedfacf
const loadSegment = 0x19
const loadCodeSignature = 0x1d
const headerBytes = 32
const signatureCommandBytes = 16
/** Of the signature's pages; not those of the processor. */
const pageBytes = 4_096
/** Apple silicon's: segments end at such a border. */
const segmentAlignBytes = 16_384

/** The executable with an ad-hoc signature in place of any that it had; `identifier` is the program's name in it. */
export function signAdHoc(file: Buffer, identifier: string): Buffer {
  const found = readCommands(file)
  const end = found.signature ? found.signature.dataAt : found.linkEdit.fileAt + found.linkEdit.fileBytes
  const codeBytes = alignUp(end, 16)
  const signatureBytes = alignUp(blobBytes(codeBytes, identifier), 16)
  const signed = Buffer.alloc(codeBytes + signatureBytes)
  file.copy(signed, 0, 0, Math.min(end, file.length))
  const commandAt = found.signature?.commandAt ?? addSignatureCommand(signed, found)
  signed.writeUInt32LE(codeBytes, commandAt + 8)
  signed.writeUInt32LE(signatureBytes, commandAt + 12)
  const linkEditBytes = codeBytes + signatureBytes - found.linkEdit.fileAt
  signed.writeBigUInt64LE(BigInt(alignUp(linkEditBytes, segmentAlignBytes)), found.linkEdit.commandAt + 32)
  signed.writeBigUInt64LE(BigInt(linkEditBytes), found.linkEdit.commandAt + 48)
  writeSuperBlob(signed, { at: codeBytes, identifier, textBytes: found.textBytes })
  return signed
}

/** What the signature of an executable says of it; throws `BUG` when there is none. */
export function readSignature(file: Buffer): MachOSignature {
  const { signature } = readCommands(file)
  if (!signature) throw new NsmError('BUG', 'the executable has no signature', 'sign it')
  const directoryAt = signature.dataAt + slotOffset(file, signature.dataAt, codeDirectorySlot)
  const hashesAt = directoryAt + file.readUInt32BE(directoryAt + 16)
  const pages = file.readUInt32BE(directoryAt + 28)
  const codeBytes = file.readUInt32BE(directoryAt + 32)
  const wrong = Array.from({ length: pages }, (_, page) => page).filter(
    (page) => !pageHash(file, page, codeBytes).equals(file.subarray(hashesAt + page * 32, hashesAt + page * 32 + 32)),
  )
  const identifierAt = directoryAt + file.readUInt32BE(directoryAt + 20)
  return {
    identifier: file.toString('latin1', identifierAt, file.indexOf(0, identifierAt)),
    isAdHoc: (file.readUInt32BE(directoryAt + 12) & flagAdHoc) !== 0,
    pages,
    wrongPages: wrong.length,
  }
}

/** What is read of a signature. */
export interface MachOSignature {
  readonly identifier: string
  readonly isAdHoc: boolean
  readonly pages: number
  /** Pages whose hash is another: 0 in a file that nobody changed. */
  readonly wrongPages: number
}

interface Commands {
  readonly commandsEnd: number
  /** Where the first content begins: load commands can grow up to there. */
  readonly contentAt: number
  readonly textBytes: bigint
  readonly linkEdit: { readonly commandAt: number; readonly fileAt: number; readonly fileBytes: number }
  readonly signature?: { readonly commandAt: number; readonly dataAt: number }
}

function readCommands(file: Buffer): Commands {
  if (file.length < headerBytes || file.readUInt32LE(0) !== machO64) throw notMachO()
  let [textBytes, contentAt] = [0n, file.length]
  let linkEdit: Commands['linkEdit'] | undefined
  let signature: Commands['signature'] | undefined
  let at = headerBytes
  for (let index = 0; index < file.readUInt32LE(16); index++) {
    const command = file.readUInt32LE(at)
    if (command === loadCodeSignature) signature = { commandAt: at, dataAt: file.readUInt32LE(at + 8) }
    if (command === loadSegment) {
      const name = file.toString('latin1', at + 8, at + 24).replace(/\0+$/, '')
      const [fileAt, fileBytes] = [Number(file.readBigUInt64LE(at + 40)), Number(file.readBigUInt64LE(at + 48))]
      if (name === '__LINKEDIT') linkEdit = { commandAt: at, fileAt, fileBytes }
      if (name === '__TEXT') {
        textBytes = BigInt(fileBytes)
        contentAt = firstSection(file, at)
      }
    }
    at += file.readUInt32LE(at + 4)
  }
  if (!linkEdit) throw notMachO()
  return { commandsEnd: at, contentAt, textBytes, linkEdit, ...(signature ? { signature } : {}) }
}

function firstSection(file: Buffer, segmentAt: number): number {
  const count = file.readUInt32LE(segmentAt + 64)
  const starts = Array.from({ length: count }, (_, index) => file.readUInt32LE(segmentAt + 72 + index * 80 + 48))
  return Math.min(...starts.filter((start) => start > 0))
}

/** Injection drops the command with the signature; it goes behind the others, where there is room before the code. */
function addSignatureCommand(file: Buffer, { commandsEnd, contentAt }: Commands): number {
  if (commandsEnd + signatureCommandBytes > contentAt)
    throw new NsmError('BUG', 'no room for a signature', 'look at it')
  file.writeUInt32LE(loadCodeSignature, commandsEnd)
  file.writeUInt32LE(signatureCommandBytes, commandsEnd + 4)
  file.writeUInt32LE(file.readUInt32LE(16) + 1, 16)
  file.writeUInt32LE(file.readUInt32LE(20) + signatureCommandBytes, 20)
  return commandsEnd
}

const superBlobMagic = 0xfade0cc0
const directoryMagic = 0xfade0c02
const directoryVersion = 0x20400
const directoryHeaderBytes = 88
const superBlobHeaderBytes = 12 + 2 * 8
const codeDirectorySlot = 0
const requirementsSlot = 2
const flagAdHoc = 2
const sha256Type = 2
/** Slots before the first page: -1 is a file that bundles have, -2 the requirements. */
const specialSlots = 2
/** No requirements: magic, length, count. */
const requirements = Buffer.from('fade0c010000000c00000000', 'hex')

function blobBytes(codeBytes: number, identifier: string): number {
  return superBlobHeaderBytes + directoryBytes(codeBytes, identifier) + requirements.length
}

function directoryBytes(codeBytes: number, identifier: string): number {
  return directoryHeaderBytes + identifier.length + 1 + (specialSlots + Math.ceil(codeBytes / pageBytes)) * 32
}

interface Signed {
  /** Where the signature begins and the code ends. */
  readonly at: number
  readonly identifier: string
  readonly textBytes: bigint
}

function writeSuperBlob(file: Buffer, { at, identifier, textBytes }: Signed): void {
  const directoryLength = directoryBytes(at, identifier)
  const requirementsAt = superBlobHeaderBytes + directoryLength
  const header = [superBlobMagic, requirementsAt + requirements.length, 2]
  const slots = [codeDirectorySlot, superBlobHeaderBytes, requirementsSlot, requirementsAt]
  writeWords(file, at, [...header, ...slots])
  requirements.copy(file, at + requirementsAt)
  const directory = at + superBlobHeaderBytes
  const pages = Math.ceil(at / pageBytes)
  const hashesAt = directoryHeaderBytes + identifier.length + 1 + specialSlots * 32
  writeWords(file, directory, [
    directoryMagic,
    directoryLength,
    directoryVersion,
    flagAdHoc,
    hashesAt,
    directoryHeaderBytes,
    specialSlots,
    pages,
    at,
  ])
  file.set([32, sha256Type, 0, Math.log2(pageBytes)], directory + 36)
  // The executable segment is __TEXT from 0 on, of a main program.
  file.writeBigUInt64BE(textBytes, directory + 72)
  file.writeBigUInt64BE(1n, directory + 80)
  file.write(identifier, directory + directoryHeaderBytes, 'latin1')
  const hashes = directory + hashesAt
  Buffer.from(hash('sha256', requirements, 'hex'), 'hex').copy(file, hashes - 2 * 32)
  for (let page = 0; page < pages; page++) pageHash(file, page, at).copy(file, hashes + page * 32)
}

function writeWords(file: Buffer, at: number, words: readonly number[]): void {
  for (const [index, word] of words.entries()) file.writeUInt32BE(word, at + index * 4)
}

function slotOffset(file: Buffer, at: number, slot: number): number {
  for (let index = 0; index < file.readUInt32BE(at + 8); index++) {
    if (file.readUInt32BE(at + 12 + index * 8) === slot) return file.readUInt32BE(at + 16 + index * 8)
  }
  throw new NsmError('BUG', `the signature has no part ${slot}`, 'look at it')
}

function pageHash(file: Buffer, page: number, codeBytes: number): Buffer {
  const bytes = file.subarray(page * pageBytes, Math.min((page + 1) * pageBytes, codeBytes))
  return Buffer.from(hash('sha256', bytes, 'hex'), 'hex')
}

function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to
}

function notMachO(): NsmError {
  return new NsmError('BUG', 'this is no 64-bit Mach-O executable', 'look at the package it came from')
}
