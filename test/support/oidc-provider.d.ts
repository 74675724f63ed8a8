declare module 'oidc-provider' {
  import type { IncomingMessage, ServerResponse } from 'node:http'

  /** What the tests use of the certified OpenID provider. */
  export class Provider {
    constructor(issuer: string, configuration: object)
    on(event: 'grant.success', listener: (context: { readonly body: unknown }) => void): void
    callback(): (request: IncomingMessage, response: ServerResponse) => void
  }
}
