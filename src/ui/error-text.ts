import type { NsmError } from '../base/errors.ts'
import { printableLines } from '../base/printable.ts'

/** The error as the one JSON document of `--json`; scripts match `code`, never the message. */
export function errorJson(error: NsmError): string {
  return JSON.stringify({ error: error.toData() }, undefined, 2)
}

/** The error for a person: what happened, then the one thing to do now. */
export function errorText(error: NsmError): string {
  const next = error.next === '' ? '' : `\nTry this: ${error.next}`
  return printableLines(`Error (${error.code}): ${error.message}${next}`)
}
