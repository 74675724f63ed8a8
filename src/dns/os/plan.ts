/** One change to a system on which settings are files, keys and programs' calls; nothing is done by saying it. */
export type Step =
  | { readonly kind: 'write'; readonly path: string; readonly text: string }
  /** Only a file of ours is removed: one that begins with `marker`. */
  | { readonly kind: 'remove'; readonly path: string; readonly marker: string }
  | { readonly kind: 'run'; readonly program: string; readonly args: readonly string[]; readonly input?: string }

/** How a system is made to ask us, and what takes it back; the second belongs into the journal before the first is done. */
export interface Plan {
  readonly set: readonly Step[]
  readonly undo: readonly Step[]
}
