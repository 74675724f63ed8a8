// usage: echo.mjs ADDRESS PORT BYTES: sends random bytes over TCP and says how many came back unchanged, and how fast.
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'

const [, , address, port, bytes] = process.argv
const sent = randomBytes(Number(bytes))
const parts = []
let received = 0
const startedMs = performance.now()
const socket = connect(Number(port), address, () => socket.write(sent))
socket.setTimeout(10_000, () => socket.destroy(new Error('silent for 10 s')))
socket.on('error', (error) => {
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
})
socket.on('data', (part) => {
  parts.push(part)
  received += part.length
  if (received < sent.length) return
  const tookMs = performance.now() - startedMs
  process.stdout.write(`${JSON.stringify({ received, same: Buffer.concat(parts).equals(sent), tookMs })}\n`)
  socket.end()
})
