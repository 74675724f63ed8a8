import type { Admission } from '../nsm/admission.ts'
import type { NetworkService, NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'

/** What somebody sees of an entry: all of it, a part, or nothing. */
export type View<T> = (entry: T) => T | undefined

/** Services that the caller may find; undefined where nothing is hidden from anybody. */
export function serviceView(admission: Admission, id: string): View<NetworkService> | undefined {
  if (admission.isOpen) return undefined
  return (entry) => (mayFind(admission, id, entry.name) ? entry : undefined)
}

/** Endpoints of services that the caller may find, without a word of the other services that they offer. */
export function endpointView(admission: Admission, id: string): View<NetworkServiceEndpoint> | undefined {
  if (admission.isOpen) return undefined
  return (entry) => {
    const { networkServiceNames: names, networkServiceLabels: labels } = entry
    const seen = names.filter((service) => mayFind(admission, id, service))
    if (seen.length === 0) return undefined
    const labelled = Object.keys(labels).every((service) => seen.includes(service))
    if (seen.length === names.length && labelled) return entry
    const kept = Object.entries(labels).filter(([service]) => seen.includes(service))
    return { ...entry, networkServiceNames: seen, networkServiceLabels: Object.fromEntries(kept) }
  }
}

/** The entries as they are seen; one that fits by a part that is hidden is not given. */
export function viewed<T>(
  entries: T[],
  { view, matches }: { readonly view: View<T> | undefined; readonly matches: (seen: T) => boolean },
): T[] {
  if (!view) return entries
  return entries.flatMap((entry) => {
    const seen = view(entry)
    return seen !== undefined && (seen === entry || matches(seen)) ? [seen] : []
  })
}

function mayFind(admission: Admission, id: string, service: string): boolean {
  return admission.decide({ id, action: 'find', service }).isGranted
}
