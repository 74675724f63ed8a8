/** What the process that holds the add-on is asked, as one JSON text on its standard input. */
export interface KeychainRequest {
  readonly action: 'put' | 'get' | 'remove'
  readonly account: string
  readonly secret?: string
}

/** Its answer, as one JSON text on its standard output. */
export interface KeychainAnswer {
  /** Of `get`, when there is one. */
  readonly secret?: string
  /** Why it failed, in the words of the add-on. */
  readonly error?: string
}

/** Ours: the keychain shows it to its owner beside the account. */
export const keychainService = 'nsm'
