import { NsmError, toNsmError } from '../base/errors.ts'

/** Where a secret may rest, the safest first; the last one only when it was asked for by name. */
export const storeNames = ['keychain', 'encrypted-file', 'file'] as const

/** A place where a secret may rest. */
export type StoreName = (typeof storeNames)[number]

/** What a person may ask for: `auto` is the first place that works, `none` keeps nothing. */
export const storeChoices = ['auto', ...storeNames, 'none'] as const

/** A choice of a place. */
export type StoreChoice = (typeof storeChoices)[number]

/** One place for one secret. Whatever fails throws `NOT_READY`, `PERMISSION` or `UNREACHABLE`, never with the secret. */
export interface SecretStore {
  put(secret: string): Promise<void>
  /** Undefined when there is none. */
  get(): Promise<string | undefined>
  /** No failure when there is none. */
  remove(): Promise<void>
}

/** All places of one secret. */
export type SecretStores = Readonly<Record<StoreName, SecretStore>>

/** Where a secret was put, and why the places before did not take it. */
export interface PutAway {
  readonly store: StoreName | 'none'
  readonly reasons: readonly string[]
}

/** Puts a secret into the place that was asked for, for `auto` into the first that takes it; into no other one. */
export async function putAway(stores: SecretStores, secret: string, choice: StoreChoice): Promise<PutAway> {
  const reasons: string[] = []
  for (const store of placesOf(choice)) {
    try {
      await stores[store].put(secret)
      // Trusted is what can be read again: a place that takes everything and gives nothing back is none.
      if ((await stores[store].get()) === secret) return { store, reasons }
      await stores[store].remove()
      reasons.push(`${store}: it does not give back what it was given`)
    } catch (error) {
      reasons.push(`${store}: ${toNsmError(error).message}`)
    }
  }
  return { store: 'none', reasons }
}

function placesOf(choice: StoreChoice): readonly StoreName[] {
  if (choice === 'none') return []
  return choice === 'auto' ? ['keychain', 'encrypted-file'] : [choice]
}

/** A place that cannot be used (now). */
export function storeFailed(why: string, cause?: unknown): NsmError {
  return new NsmError('NOT_READY', why, 'see docs/identity.md for the places where a login is kept', { cause })
}
