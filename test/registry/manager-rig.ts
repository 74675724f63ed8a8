import { silentLog } from '../../src/base/log.ts'
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
  } = {},
): Promise<{ readonly registry: Registry; readonly server: NsmServer }> {
  const { clock } = mesh
  const { source = mesh.source('/manager'), localEndpoint = () => undefined } = parts
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, clock, log: silentLog })
  const manager = createManager({
    ...{ name: 'manager-1', registry, localEndpoint, clock, log: silentLog },
    dial: (target, expect) => openChannel({ target, source, clock, expect }),
  })
  mesh.onClose(() => {
    manager.close()
    registry.close()
    store.close()
  })
  return { registry, server: await mesh.serve([...registryServices(registry, clock), ...manager.services], source) }
}
