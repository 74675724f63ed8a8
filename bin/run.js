// Runs the command line of this process and ends it with the command's code: from a checkout and in the one-file executable.

export async function run() {
  process.stdout.on('error', notWritten)
  // A log that cannot be written ends no server.
  process.stderr.on('error', () => {})
  const { main } = await import('../src/commands/main.ts')
  process.exitCode = await main(process.argv.slice(2))
  // What was written leaves first, and what kept it from leaving is heard; a handle that something forgot does not hold
  // the process.
  process.stdout.write('', () => process.stderr.write('', () => setImmediate(() => process.exit())))
}

function notWritten(error) {
  // `nsm --help | head -1`: a reader that left early is no failure.
  if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0)
  process.stderr.write(`Error (BUG): the answer cannot be written: ${error.message}\n`, () => process.exit(1))
}
