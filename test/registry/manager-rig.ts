import { silentLog } from '../../src/base/log.ts'
import { type Admission, openAdmission } from '../../src/nsm/admission.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import type { NsmServer } from '../../src/nsm/server.ts'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry, type Registry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import type { TestMesh } from '../nsm/mesh.ts'

/** A registry and a manager on one port of the loopback, as `nsm serve` has them; closed with the mesh. */
export async function startManagerRig(
  mesh: TestMesh,
  parts: {
    readonly source?: ReturnType<TestMesh['source']>
    readonly localEndpoint?: Parameters<typeof createManager>[0]['localEndpoint']
    readonly admission?: Admission
  } = {},
): Promise<{ readonly registry: Registry; readonly server: NsmServer }> {
  const { clock } = mesh
  const { source = mesh.source('/manager'), localEndpoint = () => undefined, admission = openAdmission({}) } = parts
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, admission, clock, log: silentLog })
  const manager = createManager({
    ...{ name: 'manager-1', registry, admission, localEndpoint, clock, log: silentLog },
    dial: (target, expect) => openChannel({ target, source, clock, expect }),
  })
  mesh.onClose(() => {
    manager.close()
    registry.close()
    store.close()
  })
  const services = [...registryServices(registry, clock, { admission }), ...manager.services]
  return { registry, server: await mesh.serve(services, source, admission) }
}
