import { once } from 'node:events'
import { connect } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError, systemCode } from '../base/errors.ts'
import { within } from '../base/within.ts'
import { targetOf } from '../registry/next-hop.ts'

/** Resolves when `tcp://host:port` takes a connection; throws `UNREACHABLE` when it does not within the time. */
export async function reach(
  url: string,
  { clock, limitMs }: { readonly clock: Clock; readonly limitMs: number },
  signal: AbortSignal,
): Promise<void> {
  const { address, port } = targetOf(url)
  const unreachable = (why: string, cause?: unknown) =>
    new NsmError('UNREACHABLE', `${url} cannot be reached: ${why}`, 'check that it runs, and the firewall between', {
      cause,
    })
  const late = () => unreachable(`no answer within ${limitMs} ms`)
  const socket = connect({ host: address, port })
  try {
    await within({ clock, limitMs, late, signal }, (limited) => once(socket, 'connect', { signal: limited }))
  } catch (error) {
    signal.throwIfAborted()
    const code = systemCode(error) ?? 'ABORT_ERR'
    throw code === 'ABORT_ERR' ? late() : unreachable(code, error)
  } finally {
    socket.destroy()
  }
}
