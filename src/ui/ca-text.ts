import type { CaState } from '../daemon/ca-protocol.ts'

/** What `nsm ca status` prints. */
export function caStatusText(result: CaState): string {
  const domains = result.domains.map(({ trustDomain, profile, roots, error }) => {
    const state = error === undefined ? '' : `; the last attempt failed: ${error}`
    return `federates with ${trustDomain}  ${profile}  ${roots === 1 ? '1 root' : `${roots} roots`}${state}`
  })
  return [caText(result), ...domains].join('\n')
}

/** What `nsm ca rotate` prints. */
export function caText({ trustDomain, phase, nextMs = 0, roots }: CaState): string {
  const [signs, other] = roots.map(({ pin }) => pin)
  const until = new Date(nextMs).toISOString()
  if (phase === 'published') {
    return [
      `${trustDomain} publishes a new root, which signs from ${until}: ${other}`,
      `until then ${signs} signs; join strings made before then are good until the old root is dropped`,
    ].join('\n')
  }
  if (phase === 'issuing') {
    return [
      `the new root of ${trustDomain} signs: ${signs}`,
      `the old one is believed until ${until}, or until \`nsm ca rotate --finish\``,
    ].join('\n')
  }
  return [
    `${trustDomain} has one root: ${signs}`,
    'join strings with another pin are refused; make new ones with `nsm invite`',
  ].join('\n')
}
