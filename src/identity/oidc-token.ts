/** The audience that ID tokens for a server of this trust domain carry. */
export const audienceOf = (trustDomain: string): string => `nsm://${trustDomain}`

/** Ours: the longest ID tokens of platforms have 3 KiB. */
export const idTokenMaxCharacters = 16_384
