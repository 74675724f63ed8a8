/** The claims of a verified token. */
export type Claims = Readonly<Record<string, unknown>>

/** Claim by claim the values that are good; all claims must fit. */
export type ClaimMatch = Readonly<Record<string, readonly string[]>>

/**
 * The names of the claims that do not fit, none when the rule matches. Whole strings are compared, a claim that is a list
 * fits when one of its entries does, and a claim that is missing or is an object never fits.
 */
export function unmatchedClaims(match: ClaimMatch, claims: Claims): readonly string[] {
  return Object.keys(match).filter((name) => {
    const wanted = match[name] ?? []
    const values = [ownClaim(claims, name)].flat().map(scalarText)
    return !values.some((value) => value !== undefined && wanted.includes(value))
  })
}

/**
 * The path of an ID from its template, whose `{claim}` segments are claims of the token. Every byte outside A-Z, a-z, 0-9,
 * "." and "-" becomes "_" and two hex digits, so that two values never give one path. The result is the claim's name when
 * it cannot be a segment: missing, a list, empty, "." or "..", or too long.
 */
export function fillTemplate(template: string, claims: Claims): { readonly path: string } | { readonly bad: string } {
  const segments: string[] = []
  for (const segment of template.slice(1).split('/')) {
    const name = placeholderOf(segment)
    const text = name === undefined ? segment : escapeSegment(scalarText(ownClaim(claims, name)) ?? '')
    if (name !== undefined && !isSegment(text)) return { bad: name }
    segments.push(text)
  }
  return { path: `/${segments.join('/')}` }
}

/** The claim that a segment of a template stands for; undefined for a literal one. */
export function placeholderOf(segment: string): string | undefined {
  return /^\{([A-Za-z0-9_.:/-]{1,128})\}$/.exec(segment)?.[1]
}

/** Any text as one segment of an ID, reversibly. */
export function escapeSegment(text: string): string {
  return [...Buffer.from(text)]
    .map((byte) => {
      const character = String.fromCharCode(byte)
      return /[A-Za-z0-9.-]/.test(character) ? character : `_${byte.toString(16).padStart(2, '0')}`
    })
    .join('')
}

/** Ours: three of these and a trust domain fit into the 2048 bytes of an ID. */
const segmentMaxCharacters = 512

function isSegment(text: string): boolean {
  return text !== '' && text !== '.' && text !== '..' && text.length <= segmentMaxCharacters
}

function ownClaim(claims: Claims, name: string): unknown {
  return Object.hasOwn(claims, name) ? claims[name] : undefined
}

function scalarText(value: unknown): string | undefined {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? `${value}` : undefined
}
