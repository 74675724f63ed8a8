import { silentLog } from '../../src/base/log.ts'
import { forbidCoreDumps } from '../../src/daemon/no-core.ts'
import { loadKoffi } from '../../src/tunnel/sys/native.ts'

/* Dies as a defect would have it die. With `forbid` it has forbidden before that its memory is written; it says what the system
 * holds of that, before and after. */

const prctl = loadKoffi().load(null).func('int prctl(int option, int, int, int, int)')
const prGetDumpable = 3
const before = prctl(prGetDumpable, 0, 0, 0, 0)
if (process.argv[2] === 'forbid') forbidCoreDumps(silentLog)
process.stdout.write(`${before} ${prctl(prGetDumpable, 0, 0, 0, 0)}\n`, () => process.abort())
