/** A trust domain whose workloads may come, and where its trust bundle is from [SPIFFE Federation 5]. */
export interface FederatedDomain {
  readonly trustDomain: string
  readonly bundle: BundleOrigin
}

/** The three parts of a federation relationship are given, none is inferred from another [SPIFFE Federation 7.2]. */
export type BundleOrigin =
  /** The domain of this server: its own authority. */
  | { readonly profile: 'own' }
  /** `endpointId` is who must answer; `path` holds the first bundle, needed when that is a workload of the same domain. */
  | {
      readonly profile: 'https_spiffe'
      readonly url: string
      readonly endpointId: string
      readonly path?: string
    }
  /** Believed because the web's authorities vouch for its host name. */
  | { readonly profile: 'https_web'; readonly url: string }
  /** A bundle in SPIFFE's format, or PEM, that somebody else keeps up to date. */
  | { readonly profile: 'file'; readonly path: string }
