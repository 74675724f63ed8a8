import { NsmError } from '../../src/base/errors.ts'
import { enrolInto } from './enrol.ts'

/* Run on a machine of its own: FILE JOIN-STRING. */
const [, , file, joinString] = process.argv
if (file === undefined || joinString === undefined) throw new NsmError('USAGE', 'two arguments', 'FILE JOIN-STRING')
await enrolInto(file, joinString)
