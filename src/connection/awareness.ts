import { parseServiceUrl } from '../nsm/service-url.ts'
import { serviceText } from './wanted.ts'

/** True when two services are in one awareness group: they know of each other and may overlap [nsm-protocol 3]. */
export function mayOverlap(groups: readonly (readonly string[])[], services: readonly [string, string]): boolean {
  return groups.some((group) => {
    const names = group.map((url) => serviceText(parseServiceUrl(url)))
    return services.every((service) => names.includes(service))
  })
}
