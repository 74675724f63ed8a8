import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DomainPorts } from '../support/domain-dns.ts'
import type { GoMesh, GoServer } from './go-mesh.ts'

/** A domain of NSM's programs: registry, manager, forwarder and the two proxies at its border. */
export interface GoDomain {
  readonly registry: GoServer
  readonly manager: GoServer
  readonly border: GoServer
}

/** Starts a domain whose names end in `-NAME`; `dns` is the port of the name server that knows the others. */
export async function startGoDomain(
  mesh: GoMesh,
  { name, dns, ports }: { readonly name: string; readonly dns: number; readonly ports: DomainPorts },
): Promise<GoDomain> {
  const dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
  mesh.onClose(() => rm(dir, { recursive: true }))
  const mapIp = join(dir, 'map-ip.yaml')
  await writeFile(mapIp, '127.0.0.1: 127.0.0.1\n')
  const at = (port: number) => ({ address: '127.0.0.1', port })
  const registryUrl = `tcp://127.0.0.1:${ports.registry}`
  const registryProxy = await mesh.serve('registry-proxy-dns', { dns: `127.0.0.1:${dns}` })
  const border = await mesh.serve(
    'nsmgr-proxy',
    { name: `nsmgr-proxy-${name}`, registry: registryUrl, 'registry-proxy': registryProxy.url, 'map-ip': mapIp },
    at(ports.manager),
  )
  const registry = await mesh.serve('registry', { proxy: border.url }, at(ports.registry))
  const manager = await mesh.serve('nsmgr', { name: `nsmgr-${name}`, registry: registry.url })
  await mesh.serve('forwarder', { name: `forwarder-${name}`, manager: manager.url })
  return { registry, manager, border }
}
