import { join } from 'node:path'
import { createLog } from '../../src/base/log.ts'
import { startServe } from '../../src/daemon/serve.ts'

/**
 * Runs `nsm serve` for the benchmark: `identity-subject.ts FOLDER`, as the command does it, with its audit log. Prints the
 * join string, then "ready"; ends with its standard input.
 */
const [folder = ''] = process.argv.slice(2)
const write = (line: string) => void process.stderr.write(`${line}\n`)
const log = createLog({ level: 'warn', format: 'text', write, wallMs: Date.now })
const running = await startServe(
  {
    ...{ service: 'bench', prefixes: ['10.64.0.0/16'], dnsDomain: 'bench.nsm.internal', trustDomain: 'bench.internal' },
    ...{ listen: '127.0.0.1:0', wireguardPort: 0, stateDir: join(folder, 'state'), runtimeDir: join(folder, 'run') },
  },
  log,
)
process.stdin.on('end', () => void running.stop().then(() => process.exit(0))).resume()
process.stdout.write(`${running.joinString}\nready\n`)
