import * as Flags from '@oclif/core/flags'

/** `--type` of the commands that look a name up. */
export function recordTypeFlag() {
  return Flags.string({
    default: 'A',
    helpValue: 'TYPE',
    env: 'NSM_DNS_TYPE',
    summary: 'record type by name or as TYPE65',
  })
}
