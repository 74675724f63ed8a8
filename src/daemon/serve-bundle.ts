import { createSecureContext, createServer as createTlsServer, type SecureContextOptions } from 'node:tls'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { readSettingsFile } from '../base/settings-file.ts'
import type { UndoStack } from '../base/undo.ts'
import type { BundleEndpoint } from '../identity/bundle-endpoint.ts'
import { fileState, followFile } from './followed-file.ts'
import { parseListen } from './serve-address.ts'
import type { ServeSettings } from './serve-settings.ts'

/** Ours: other domains ask once in minutes, each on a connection of its own. */
const connectionsMax = 64
const handshakeTimeoutMs = 5_000

/**
 * Gives the bundle on a port of its own with a certificate of the web's authorities [SPIFFE Federation 5.2.1]. The files are
 * read again when the certificate changes. Throws `USAGE` for files that cannot be used, `CONFLICT` for a taken port.
 */
export async function serveBundleOnWeb(
  wanted: NonNullable<ServeSettings['bundleWeb']>,
  parts: { readonly endpoint: BundleEndpoint; readonly clock: Clock; readonly log: Log; readonly undo: UndoStack },
): Promise<void> {
  const { endpoint, clock, log, undo } = parts
  const { address: host, port } = parseListen(wanted.listen)
  const since = await fileState(wanted.certificatePath)
  const server = createTlsServer({ ...(await readPair(wanted)), handshakeTimeout: handshakeTimeoutMs })
  server.maxConnections = connectionsMax
  server.on('secureConnection', (socket) => {
    socket.on('error', () => socket.destroy())
    endpoint.serve(socket)
  })
  server.on('tlsClientError', (error) => log.debug('handshake failed', { error: error.message }))
  await new Promise<void>((resolve, reject) => {
    server.on('error', (cause: NodeJS.ErrnoException) => reject(listenError(wanted.listen, cause)))
    server.listen({ host, port }, resolve)
  })
  const load = async () => {
    try {
      server.setSecureContext(await readPair(wanted))
      log.info('the certificate of the bundle endpoint was read again')
    } catch (error) {
      log.error('the certificate of the bundle endpoint cannot be used, the last one stays', {
        error: toNsmError(error).message,
      })
    }
  }
  const followed = followFile(wanted.certificatePath, { since, clock, load })
  undo.push(async () => {
    followed.close()
    server.close()
  })
}

/** Only the first site has an authority, whose bundle can be given; throws `USAGE`. */
export function refuseBundleWeb({ bundleWeb }: Pick<ServeSettings, 'bundleWeb'>): void {
  if (bundleWeb === undefined) return
  throw new NsmError(
    'USAGE',
    'a further site gives no bundle',
    'give --bundle-listen to the first server of the network',
  )
}

async function readPair({
  certificatePath,
  keyPath,
}: NonNullable<ServeSettings['bundleWeb']>): Promise<SecureContextOptions & { readonly ALPNProtocols: string[] }> {
  const [cert, key] = [await readSettingsFile(certificatePath), await readSettingsFile(keyPath)]
  const pair = { cert, key, minVersion: 'TLSv1.2' as const }
  try {
    createSecureContext(pair)
  } catch (cause) {
    const what = `${certificatePath} and ${keyPath} are no certificate and key that belong together`
    throw new NsmError('USAGE', what, 'give both in PEM, the chain in the file of the certificate', { cause })
  }
  return { ...pair, ALPNProtocols: ['http/1.1'] }
}

function listenError(listen: string, cause: NodeJS.ErrnoException): NsmError {
  const code = cause.code === 'EACCES' ? 'PERMISSION' : 'CONFLICT'
  return new NsmError(code, `${listen} cannot be listened on: ${cause.code ?? cause.message}`, 'choose another port', {
    cause,
  })
}
