import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm ca bundle --json` prints. */
interface CaBundleResult {
  readonly apiVersion: 'nsm/ca-bundle/v1'
  /** The JWK set. */
  readonly bundle: unknown
}

/** `nsm ca bundle`: what other trust domains need to believe this one. */
export class CaBundle extends NsmCommand {
  static override description =
    'The trust bundle of the server that runs on this machine, as SPIFFE writes it. It is no secret, but has to reach\n' +
    'the other domain unchanged. That domain names the file in its policy and then follows the server by itself.'
  static override examples = ['nsm ca bundle > acme.json']

  async run(): Promise<CaBundleResult> {
    await this.parse(CaBundle)
    const text = await this.context.trustBundle(this.context.settings)
    this.log(text.trimEnd())
    return { apiVersion: 'nsm/ca-bundle/v1', bundle: JSON.parse(text) }
  }
}
