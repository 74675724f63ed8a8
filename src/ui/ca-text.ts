import type { CaState } from '../daemon/ca-protocol.ts'

/** What `nsm ca status` prints. */
export function caStatusText(result: CaState, nowMs: number): string {
  const domains = result.domains.map(({ trustDomain, profile, roots, error }) => {
    const state = error === undefined ? '' : `; the last attempt failed: ${error}`
    return `federates with ${trustDomain}  ${profile}  ${roots === 1 ? '1 root' : `${roots} roots`}${state}`
  })
  return [caText(result, nowMs), ...domains].join('\n')
}

/** What `nsm ca rotate` prints. */
export function caText({ trustDomain, phase, nextMs = 0, finishMs = 0, roots }: CaState, nowMs: number): string {
  const [signs, other] = roots.map(({ pin }) => pin)
  const [until, finish] = [nextMs, finishMs].map((ms) => new Date(ms).toISOString())
  if (phase === 'published') {
    return [
      `${trustDomain} publishes a new root, which signs from ${until}: ${other}`,
      `until then ${signs} signs; join strings made before then are good until the old root is dropped`,
      `--finish is refused until ${finish}: the new root is not known to everybody, and does not sign yet`,
    ].join('\n')
  }
  if (phase === 'issuing') {
    return [
      `the new root of ${trustDomain} signs: ${signs}`,
      `the old one is believed until ${until}, or until \`nsm ca rotate --finish\``,
      nowMs >= finishMs
        ? '--finish is allowed'
        : `--finish is refused until ${finish}, because members renew and hold tokens of it`,
    ].join('\n')
  }
  return [
    `${trustDomain} has one root: ${signs}`,
    'join strings with another pin are refused; make new ones with `nsm invite`',
  ].join('\n')
}
