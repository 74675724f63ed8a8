import type { Admission } from '../nsm/admission.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { failedRegistryPolicy } from '../nsm/policies.ts'
import type { RegistryStore, StoredEndpoint, StoredService } from './store.ts'

/** The services whose registrants may not own them any more. */
export function ungrantedServices(store: RegistryStore, admission: Admission): readonly StoredService[] {
  return store.services().filter(({ owner, service: { name, pathIds } }) => {
    return !mayHold(admission, { owner, pathIds, action: 'own', services: [name] })
  })
}

/** The endpoints whose registrants may not offer all of their services any more. */
export function ungrantedEndpoints(store: RegistryStore, admission: Admission): readonly StoredEndpoint[] {
  return store.endpoints().filter(({ owner, endpoint: { pathIds, networkServiceNames: services } }) => {
    return !mayHold(admission, { owner, pathIds, action: 'offer', services })
  })
}

interface Registering {
  /** Whom TLS verified. */
  readonly owner: string
  readonly pathIds: readonly string[]
  readonly action: 'own' | 'offer'
}

/** Whoever registers, or for whom a relay does, needs the grant; throws `REFUSED` (NOT_GRANTED). */
export function checkMay(
  admission: Admission,
  { owner, pathIds, action, service }: Registering & { readonly service: string },
) {
  if (admission.isOpen) return undefined
  const id = registrantOf(owner, pathIds)
  if (id !== owner) admission.check({ id: owner, action: 'relay', service })
  return admission.check({ id, action, service })
}

/** True while what somebody registered stands; an endpoint of nothing stands for nothing. */
function mayHold(admission: Admission, held: Registering & { readonly services: readonly string[] }): boolean {
  const { owner, pathIds, action, services } = held
  const id = registrantOf(owner, pathIds)
  const may = (service: string) =>
    admission.decide({ id, action, service }).isGranted &&
    (id === owner || admission.decide({ id: owner, action: 'relay', service }).isGranted)
  return services.length > 0 && services.every(may)
}

/** The first identity on the path of a registration, when there was one. */
export function registrantOf(owner: string, [first]: readonly string[]): string {
  return first === undefined || first === '' ? owner : first
}

/** What somebody registered is removed by the same identity, or by whoever administers. */
export function checkMayRemove(
  admission: Admission,
  { held, caller, name }: { readonly held: string; readonly caller: string; readonly name: string },
): void {
  if (!admission.decide({ id: caller, action: 'admin' }).isGranted) checkOwner(held, caller, name)
}

/** [NSM registry/client_allowed] with the identity that TLS verified; throws `REFUSED`. */
export function checkOwner(owner: string, caller: string, name: string): void {
  const failed = failedRegistryPolicy(owner, caller)
  if (failed) throw policyRefusal(`${failed}: the name ${name} belongs to another identity`)
}
