/** The first member name that stands twice in one object of a JSON text, which `JSON.parse` has read before; else undefined. */
export function duplicateKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = []
  for (const [token, quoted, colon] of json.matchAll(tokens)) {
    if (token === '{') open.push(new Set())
    else if (token === '[') open.push(undefined)
    else if (token === '}' || token === ']') open.pop()
    else if (quoted !== undefined && colon !== undefined) {
      const name: unknown = JSON.parse(quoted)
      const names = open.at(-1)
      if (typeof name !== 'string' || names?.has(name)) return String(name)
      names?.add(name)
    }
  }
  return undefined
}

/** Brackets, and texts with the colon that makes them a name. */
const tokens = /[{}[\]]|("(?:[^"\\]|\\.)*")(\s*:)?/gs
