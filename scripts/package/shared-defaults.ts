import { NsmError } from '../../src/base/errors.ts'

/**
 * The module of protobuf-es that makes the descriptor of descriptors, with one object of defaults for all descriptors of a
 * kind. It makes one for each of some 300, and V8 a hidden class for whatever inherits from it: two thirds of what the
 * package costs a start. Nothing writes to the defaults; messages that are made later share theirs too.
 */
export function shareDefaults(code: string): string {
  const defaults: string[] = []
  const sharing = code.replace(
    ownDefaults,
    (_own, literal: string) => `Object.create(defaults${defaults.push(literal)})`,
  )
  if (defaults.length !== kindsOfDescriptors) {
    throw new NsmError(
      'BUG',
      'protobuf-es makes its descriptors in another way',
      'look at scripts/package/shared-defaults.ts',
    )
  }
  return [sharing, ...defaults.map((literal, index) => `const defaults${index + 1} = ${literal}`)].join('\n')
}

/** Names the module, in the package's form for bundlers. */
export const bootModule = /\/node_modules\/@bufbuild\/protobuf\/dist\/esm\/codegenv2\/boot\.js$/

/** A literal without literals inside. */
const ownDefaults = /Object\.create\((\{[^{}]*\})\)/g
/** File, message, field, its options, enum. */
const kindsOfDescriptors = 5
