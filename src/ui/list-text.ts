import type { ListResult } from '../daemon/protocol.ts'
import { columns } from './columns.ts'

/** One line per network service: name, payload, how many endpoints serve it and which. */
export function listText(result: ListResult): string {
  if (result.services.length === 0) return '# no network service is registered'
  return columns(
    result.services.map(({ name, payload, endpoints }) => [
      name,
      payload,
      `${endpoints.length} endpoint${endpoints.length === 1 ? '' : 's'}`,
      endpoints.map((endpoint) => endpoint.name).join(' '),
    ]),
  ).join('\n')
}
