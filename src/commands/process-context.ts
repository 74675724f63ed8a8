import { text } from 'node:stream/consumers'
import { readSettings } from '../base/settings.ts'
import type { CommandContext } from '../ui/command-context.ts'

/** The context of the real process: its streams, its environment, and the background process loaded on first use. */
export function processContext(signal: AbortSignal, onHangup: CommandContext['onHangup']): CommandContext {
  const uid = process.getuid?.() ?? 0
  return {
    environment: process.env,
    settings: readSettings(process.env, uid),
    signal,
    onHangup,
    isTerminal: process.stdout.isTTY === true,
    wallMs: () => Date.now(),
    writeOut: (line) => void process.stdout.write(`${line}\n`),
    writeError: (line) => void process.stderr.write(`${line}\n`),
    readInput: () => text(process.stdin),
    connectDaemon: async (settings, options) => (await import('../daemon/client.ts')).connectDaemon(settings, options),
    startServe: async (settings, log, stop) => {
      const [serve, noCore] = await Promise.all([import('../daemon/serve.ts'), import('../daemon/no-core.ts')])
      noCore.forbidCoreDumps(log)
      return serve.startServe(settings, log, stop)
    },
    invite: async (settings, wanted) => (await import('../daemon/serve-admin.ts')).inviteFromRunning(settings, wanted),
    caStatus: async (settings) => (await import('../daemon/serve-ca.ts')).caOfRunning(settings),
    rotateRoot: async (settings, wanted) => (await import('../daemon/serve-ca.ts')).rotateRunning(settings, wanted),
    trustBundle: async (settings) => (await import('../daemon/serve-ca.ts')).bundleOfRunning(settings),
    obtainLogin: async (join, around) => (await import('../daemon/login.ts')).obtainLogin(join, around),
    testPolicy: async (settings, asked) => (await import('../daemon/policy-methods.ts')).testPolicy(settings, asked),
    checkPolicy: async (settings, path) => (await import('../daemon/policy-methods.ts')).checkPolicy(settings, path),
    queryDns: async (query, stop) => (await import('../daemon/dns-query.ts')).queryDns(query, stop),
    startDnsServe: async (settings, log) => (await import('../daemon/dns-serve.ts')).startDnsServe(settings, log),
    repairMachine: async (settings, log) => (await import('../daemon/repair.ts')).repairMachine(settings, log),
  }
}
