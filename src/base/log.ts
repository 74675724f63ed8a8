import { printable } from './printable.ts'
import { hasSecret, isSecretField } from './secrets.ts'

/** A log field; nested objects are not logged. */
export type LogValue = string | number | boolean | undefined
/** Fields beside the constant sentence of a log line. */
export type LogFields = Readonly<Record<string, LogValue>>

/** error = a person must act; warn = we coped; info = state changed; debug = why. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug'

/** A constant sentence, then fields. */
export interface Log {
  error(sentence: string, fields?: LogFields): void
  warn(sentence: string, fields?: LogFields): void
  info(sentence: string, fields?: LogFields): void
  debug(sentence: string, fields?: LogFields): void
}

/** Everything a log is made from. */
export interface LogSettings {
  readonly level: LogLevel
  readonly format: 'text' | 'json'
  /** Takes one line without its end of line. */
  readonly write: (line: string) => void
  /** Wall clock in milliseconds since the Unix epoch. */
  readonly wallMs: () => number
}

/** A log that writes lines of text or JSON and drops secret fields. */
export function createLog(settings: LogSettings): Log {
  const emit = (level: LogLevel, sentence: string, fields: LogFields = {}) => {
    if (levels.indexOf(level) > levels.indexOf(settings.level)) return
    const time = new Date(settings.wallMs()).toISOString()
    settings.write(line(settings.format, { time, level, sentence }, redact(fields)))
  }
  return {
    error: (sentence, fields) => emit('error', sentence, fields),
    warn: (sentence, fields) => emit('warn', sentence, fields),
    info: (sentence, fields) => emit('info', sentence, fields),
    debug: (sentence, fields) => emit('debug', sentence, fields),
  }
}

/** A log that says nothing. */
export const silentLog: Log = { error() {}, warn() {}, info() {}, debug() {} }

const levels: readonly LogLevel[] = ['error', 'warn', 'info', 'debug']

/** Ours: a peer's text in a log line is cut here, so that a hostile peer cannot fill the log. */
const valueMaxCharacters = 256

function redact(fields: LogFields): LogFields {
  const kept: Record<string, LogValue> = {}
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || isSecretField(name)) continue
    if (typeof value === 'string') kept[name] = hasSecret(value) ? '[secret]' : oneLine(value)
    else kept[name] = value
  }
  return kept
}

/** One line, bounded, without control characters. */
function oneLine(text: string): string {
  return printable(text.length > valueMaxCharacters ? `${text.slice(0, valueMaxCharacters)}...` : text)
}

function line(
  format: 'text' | 'json',
  head: { readonly time: string; readonly level: LogLevel; readonly sentence: string },
  fields: LogFields,
): string {
  if (format === 'json') return JSON.stringify({ ...head, ...fields })
  const pairs = Object.entries(fields).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`)
  return `${head.time} ${head.level} ${head.sentence}${pairs.join('')}`
}
