/**
 * Text of a peer made safe for a log or a terminal: control characters, line and paragraph separators and characters that
 * turn or hide what stands beside them become `\xNN` or `\u{NNNN}`. [security L14]
 */
export function printable(text: string): string {
  return text.replace(unprintable, escaped)
}

/** As `printable`, and lines stay lines: for texts of several lines, such as an error with its caret line. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n')
}

const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu

function escaped(found: string): string {
  const code = (found.codePointAt(0) ?? 0).toString(16)
  return code.length <= 2 ? `\\x${code.padStart(2, '0')}` : `\\u{${code}}`
}
