// usage: transfer.mjs serve ADDRESS PORT BYTES | transfer.mjs get URL: a download over HTTP that prints size, time and hash.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

const [, , mode, first, port, bytes] = process.argv
if (mode === 'serve') serve(first, Number(port), Number(bytes))
else await get(first)

function serve(address, portNumber, sizeBytes) {
  const chunk = Buffer.alloc(65_536, 'network service mesh ')
  const server = createServer((request, response) => {
    response.writeHead(200, { 'content-length': sizeBytes, 'x-client': request.socket.remoteAddress })
    let left = sizeBytes
    const more = () => {
      while (left > 0) {
        const part = chunk.subarray(0, Math.min(left, chunk.length))
        left -= part.length
        if (!response.write(part)) return
      }
      response.end()
    }
    response.on('drain', more)
    more()
  })
  server.listen(portNumber, address, () => process.stdout.write('listening\n'))
}

async function get(url) {
  const startedMs = performance.now()
  const response = await fetch(url)
  const hash = createHash('sha256')
  let received = 0
  for await (const part of response.body) {
    hash.update(part)
    received += part.length
  }
  const tookMs = performance.now() - startedMs
  const client = response.headers.get('x-client')
  process.stdout.write(`${JSON.stringify({ received, tookMs, client, sha256: hash.digest('hex') })}\n`)
}
