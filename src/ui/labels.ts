import { NsmError } from '../base/errors.ts'

/** Parses `key=value` labels, or `key:value` as cmd-nsc's NSM_LABELS writes them; throws `USAGE`. */
export function parseLabels(texts: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(texts.map(parseLabel))
}

function parseLabel(text: string): readonly [string, string] {
  const found = /^([^=:]+)[=:](.*)$/s.exec(text)
  const [, key = '', value = ''] = found ?? []
  if (key.trim() === '') throw new NsmError('USAGE', `"${text}" is not a label`, 'write it like --label color=red')
  return [key.trim(), value.trim()]
}
