/** A message as gRPC puts it on a stream: no compression, four bytes of length. */
export function frame(wire: Uint8Array): Buffer {
  const head = Buffer.alloc(headBytes)
  head.writeUInt32BE(wire.length, 1)
  return Buffer.concat([head, wire])
}

/** The messages of a stream until it ends, as they come. */
export async function* frames(stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  let bytes = Buffer.alloc(0)
  for await (const chunk of stream) {
    bytes = Buffer.concat([bytes, chunk])
    while (bytes.length >= headBytes && bytes.length >= headBytes + bytes.readUInt32BE(1)) {
      const end = headBytes + bytes.readUInt32BE(1)
      yield bytes.subarray(headBytes, end)
      bytes = bytes.subarray(end)
    }
  }
}

const headBytes = 5
