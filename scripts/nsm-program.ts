import { resolve } from 'node:path'

/** The program that tests, demo and benches run: of this checkout, or the one that NSM_PROGRAM names, as `npm run test:packed` does. */
export const nsmProgram = resolve(process.env['NSM_PROGRAM'] ?? resolve(import.meta.dirname, '../bin/nsm'))

/** The file that the kernel runs for it: what a SPIFFE agent sees of the process. */
export const nsmExecutable = process.env['NSM_PROGRAM'] === undefined ? process.execPath : nsmProgram
