import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { loadKoffi } from '../tunnel/sys/native.ts'

/**
 * From now on no image of this process's memory is written when it dies, nor may other processes of the same user look into it:
 * it holds keys. The system then owns what it shows of the process [proc(5)]. Programs that it starts write none either.
 */
export function forbidCoreDumps(log: Log): void {
  try {
    const library = loadKoffi().load(null)
    const setrlimit = library.func('int setrlimit(int resource, const uint64_t *limit)')
    const prctl = library.func(
      'int prctl(int option, unsigned long value, unsigned long, unsigned long, unsigned long)',
    )
    // A handler of core_pattern gets the image whatever the limit is; only the second forbids that too [core(5)].
    const failed = [setrlimit(rlimitCore, [0, 0]), prctl(prSetDumpable, 0, 0, 0, 0)].some((result) => result !== 0)
    if (failed) log.warn('this process may leave an image of its memory behind: the system forbids to forbid it')
  } catch (error) {
    log.debug('this process may leave an image of its memory behind', { error: toNsmError(error).message })
  }
}

/** [Linux asm-generic/resource.h] */
const rlimitCore = 4
/** [Linux prctl.h] */
const prSetDumpable = 4
