/** True for a name of whole labels without a dot at its end, in letters of either case [RFC 1035 2.3.4] [RFC 2181 11]. */
export function isDnsName(name: string): boolean {
  return name.split('.').every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i.test(label))
}
