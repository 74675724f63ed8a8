import type { ListenAddress } from './listener.ts'

/** Ours: first choice and its stand-ins, clear of the addresses other local resolvers use. */
export const listenCandidates: readonly ListenAddress[] = [55, 56, 57, 58, 59].map((last) => ({
  address: `127.0.0.${last}`,
  port: 53,
}))

/** True for an address that nsm listens on, this one or another: it is no upstream, and found in an old file it leads nowhere. */
export function isOwnAddress(address: string): boolean {
  return listenCandidates.some((own) => own.address === address)
}
