import { readSettings } from '../base/settings.ts'

/* Entry of the background process. */

// The first thing: without a listener this signal would open a debugger port [security L7].
process.on('SIGUSR1', () => {})
process.umask(0o077)
const settings = readSettings(process.env, process.getuid?.() ?? 0)
const { runDaemon } = await import('./run-daemon.ts')
await runDaemon(settings)
