import { readSettings } from '../base/settings.ts'

/* Entry of the background process; with `repair`, of the one that puts the machine back after it was killed; with
 * `keychain`, of the one that asks the keychain. */

// The first thing: without a listener this signal would open a debugger port [security L7].
process.on('SIGUSR1', () => {})
process.umask(0o077)
const settings = readSettings(process.env, process.getuid?.() ?? 0)
// No top-level await: the one-file executable loads this as a script.
if (process.argv[2] === 'repair') void import('./run-repair.ts').then(({ runRepair }) => runRepair(settings))
else if (process.argv[2] === 'keychain') void import('./keychain/run.ts').then(({ runKeychain }) => runKeychain())
else void import('./run-daemon.ts').then(({ runDaemon }) => runDaemon(settings))
