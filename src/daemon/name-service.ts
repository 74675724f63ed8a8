import { Resolver } from 'node:dns/promises'
import { addressText } from '../base/address-text.ts'
import { NsmError, systemCode } from '../base/errors.ts'
import type { NameService } from '../nsm/interdomain-lookup.ts'

/** A resolver of this machine. */
export interface NameServer {
  readonly address: string
  readonly port: number
}

/** Ours: a resolver that is there answers sooner; it is asked twice. */
const askTimeoutMs = 1_500
const askTries = 2

/**
 * Asks the resolvers that are given at the time of a question, by default those of the system. Names of a domain's servers
 * go there alone: a network service must not be able to say where another domain is.
 */
export function createNameService(servers: () => Promise<readonly NameServer[]> = async () => []): NameService {
  const open = async () => {
    const resolver = new Resolver({ timeout: askTimeoutMs, tries: askTries })
    const asked = await servers()
    if (asked.length > 0) resolver.setServers(asked.map(addressText))
    return resolver
  }
  const ask = async <T>(signal: AbortSignal, question: (resolver: Resolver) => Promise<readonly T[]>) => {
    const resolver = await open()
    const cancel = () => resolver.cancel()
    signal.throwIfAborted()
    signal.addEventListener('abort', cancel, { once: true })
    try {
      return await question(resolver)
    } catch (error) {
      signal.throwIfAborted()
      return emptyOr(error)
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }
  return {
    srv: (name, signal) =>
      ask(signal, async (resolver) =>
        (await resolver.resolveSrv(name)).map(({ name: target, port, priority, weight }) => ({
          target,
          port,
          priority,
          weight,
        })),
      ),
    async addresses(name, signal) {
      const [v4, v6] = await Promise.all([
        ask(signal, (resolver) => resolver.resolve4(name)),
        ask(signal, (resolver) => resolver.resolve6(name)),
      ])
      return [...v4, ...v6]
    },
  }
}

/** Answers that say there is nothing. */
const nothing: readonly string[] = ['ENOTFOUND', 'ENODATA']

function emptyOr(error: unknown): never[] {
  const code = systemCode(error) ?? ''
  if (nothing.includes(code)) return []
  const message = `the resolvers of this machine do not answer (${code || 'unknown'})`
  throw new NsmError('UNREACHABLE', message, 'check the network and /etc/resolv.conf', { cause: error })
}
