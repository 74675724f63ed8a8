import type { Served } from '../daemon/serve-settings.ts'
import type { InviteResult } from './command-context.ts'

/** What `nsm serve` prints: lines for people start with `#`, so that the output is a valid `--join` file. */
export function serveText(served: ServeResult): string {
  return [
    `# ${served.service} on ${served.prefixes.join(', ')} with names under ${served.dnsDomain}`,
    `# gRPC on ${served.listen}, WireGuard on UDP port ${served.wireguardPort}; stop with Ctrl-C`,
    ...joinLines(served),
    ...openJoinLines(served),
  ].join('\n')
}

function joinLines({ service, joinString }: ServeResult): readonly string[] {
  if (joinString === '') return ['# The first site is away: no join string; try nsm invite later']
  const how = `nsm connect --join FILE ${service}, FILE with this line:`
  return [`# On another machine, once and within 15 minutes: ${how}`, joinString]
}

/** A comment too, so that the file still joins by the token in it. */
function openJoinLines({ openJoinString }: ServeResult): readonly string[] {
  if (openJoinString === undefined) return []
  return ['# With an ID token of an issuer, any number of times; this is no secret:', `# ${openJoinString}`]
}

/** What `nsm serve --json` prints, once. */
export interface ServeResult extends Served {
  readonly apiVersion: 'nsm/serve/v1'
  readonly joinString: string
  /** Without a token, for those who show an ID token; absent when no issuer is believed. */
  readonly openJoinString?: string
}

/** What `nsm invite` prints. */
export function inviteText({ joinString, spiffeId, expiresMs }: InviteResult): string {
  if (expiresMs === undefined) return [`# for who shows an ID token; no secret`, joinString].join('\n')
  return [`# admits ${spiffeId} once, until ${new Date(expiresMs).toISOString()}`, joinString].join('\n')
}
