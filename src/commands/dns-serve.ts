import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import * as Flags from '@oclif/core/flags'
import { NsmError, systemCode, toNsmError } from '../base/errors.ts'
import type { DnsServeHandle, DnsServeSettings } from '../daemon/dns-serve.ts'
import { type DnsServeFlags, dnsServeRequest } from '../ui/dns-serve-request.ts'
import { type DnsServeResult, dnsServeText, wideScopes } from '../ui/dns-serve-text.ts'
import { errorText } from '../ui/error-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm dns serve`: the same resolver alone, without any connection, until a signal. */
export class DnsServe extends NsmCommand {
  static override description =
    'Answers this machine only. A mode is fanout (default), prefer-service or exclusive. SIGHUP reads the config file\n' +
    'again; questions under way are answered as they were asked.'
  static override examples = [
    'nsm dns serve --listen 127.0.0.1:5300 --default 192.0.2.53 --scope corp.example=10.0.0.53,10.0.0.54',
    'nsm dns serve --scope corp.example/exclusive=10.0.0.53 --scope 10.0.0.0/8=10.0.0.53',
    'nsm dns serve --config dns.json',
  ]
  static override flags = {
    listen: Flags.string({
      helpValue: 'HOST:PORT',
      env: 'NSM_DNS_LISTEN',
      summary: 'UDP and TCP address, 127.0.0.1:5300 when nothing is said',
    }),
    default: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'HOST[:PORT]',
      env: 'NSM_DNS_DEFAULT',
      summary: 'asked for names under no scope; without one they are refused',
    }),
    scope: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'SUFFIX[/MODE]=HOST[:PORT],...',
      env: 'NSM_DNS_SCOPE',
      summary: 'servers of the names under a domain, or of the reverse names of an IP prefix',
    }),
    config: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_DNS_CONFIG',
      summary: 'JSON object {"listen", "default": [], "scope": []} with the same texts',
    }),
    verbose: Flags.boolean({ default: false, env: 'NSM_VERBOSE', summary: 'log what happens to standard error' }),
  }

  async run(): Promise<void> {
    const { flags } = await this.parse(DnsServe)
    const { signal, startDnsServe, onHangup } = this.context
    const settings = await readRequest(flags)
    const running = await startDnsServe(settings, this.processLog(flags.verbose ? 'debug' : 'warn'))
    try {
      this.#show(settings, running)
      onHangup(() => void this.#reload(flags, running))
      if (!signal.aborted) await once(signal, 'abort')
    } finally {
      await running.stop()
    }
  }

  #show(settings: DnsServeSettings, running: DnsServeHandle): void {
    const result: DnsServeResult = {
      apiVersion: 'nsm/dns-serve/v1',
      listening: running.listening,
      scopes: running.status().scopes.map(({ suffix, mode, servers }) => ({ suffix, mode, servers })),
    }
    for (const warning of wideScopes(settings)) this.context.writeError(`# warning: ${warning}`)
    if (this.jsonEnabled()) this.logJson(result)
    else this.log(dnsServeText(result))
  }

  /** A file that cannot be understood changes nothing. */
  async #reload(flags: Parameters<typeof readRequest>[0], running: DnsServeHandle): Promise<void> {
    const { writeError } = this.context
    try {
      running.reload(await readRequest(flags))
      writeError('# settings read again')
    } catch (error) {
      writeError(errorText(toNsmError(error)))
    }
  }
}

async function readRequest(flags: DnsServeFlags & { readonly config?: string | undefined }): Promise<DnsServeSettings> {
  const { config } = flags
  if (config === undefined) return dnsServeRequest(flags)
  const text = await readFile(config, 'utf8').catch((cause: unknown) => {
    const why = systemCode(cause) ?? 'unreadable'
    throw new NsmError('USAGE', `cannot read ${config}: ${why}`, 'name a readable file with --config', { cause })
  })
  return dnsServeRequest(flags, text)
}
