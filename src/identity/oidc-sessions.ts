import { openDatabase } from '../base/database.ts'
import { oidcRefusal } from './oidc-refusal.ts'
import { secretHash } from './secret-hash.ts'

/** Which rule gave a key its identity, and until when it may be renewed. */
export interface OidcSession {
  readonly issuer: string
  readonly rule: string
  /** Milliseconds since the Unix epoch. */
  readonly endsMs: number
}

/** What outlives a restart of the server: the tokens that were used, as hashes, and the sessions that they began. */
export interface OidcSessions {
  /** Binds a token to a key until it expires. The same pair may come again; throws `REFUSED` (TOKEN_REUSED) otherwise. */
  use(
    token: string,
    shown: { readonly publicKey: Uint8Array; readonly expiresMs: number; readonly nowMs: number },
  ): void
  begin(publicKey: Uint8Array, session: OidcSession): void
  /** The session of a key; undefined for a key that no token of an issuer brought. */
  find(publicKey: Uint8Array, nowMs: number): OidcSession | undefined
  close(): void
}

/** Raise it with each change of the tables, and say in `open` how the older one becomes the newer. */
const schemaVersion = 1

const schema = `CREATE TABLE used_tokens (
  token_hash TEXT PRIMARY KEY, key_hash TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;
CREATE TABLE sessions (
  key_hash TEXT PRIMARY KEY, issuer TEXT NOT NULL, rule TEXT NOT NULL, ends_ms INTEGER NOT NULL) STRICT;`

/** Opens or makes the file; `:memory:` keeps nothing. Throws `CONFLICT` for a file of a newer version. */
export function openOidcSessions(path: string): OidcSessions {
  const database = openDatabase({ path, schema, schemaVersion })
  const forgetTokens = database.prepare('DELETE FROM used_tokens WHERE expires_ms < ?')
  const findToken = database.prepare('SELECT key_hash FROM used_tokens WHERE token_hash = ?')
  const addToken = database.prepare('INSERT INTO used_tokens VALUES (?, ?, ?)')
  const forgetSessions = database.prepare('DELETE FROM sessions WHERE ends_ms < ?')
  const addSession = database.prepare('INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)')
  const findSession = database.prepare('SELECT * FROM sessions WHERE key_hash = ?')
  return {
    use(token, { publicKey, expiresMs, nowMs }) {
      forgetTokens.run(Math.floor(nowMs))
      const usedBy = findToken.get(secretHash(token))?.['key_hash']
      if (usedBy === undefined) addToken.run(secretHash(token), secretHash(publicKey), Math.ceil(expiresMs))
      else if (usedBy !== secretHash(publicKey)) {
        throw oidcRefusal('TOKEN_REUSED', 'the token was used with another key: fetch a new one for each machine')
      }
    },
    begin(publicKey, { issuer, rule, endsMs }) {
      addSession.run(secretHash(publicKey), issuer, rule, Math.floor(endsMs))
    },
    find(publicKey, nowMs) {
      // No certificate outlives its session, so a session that is over has no caller left.
      forgetSessions.run(Math.floor(nowMs) - keptMs)
      const row = findSession.get(secretHash(publicKey))
      return row && { issuer: String(row['issuer']), rule: String(row['rule']), endsMs: Number(row['ends_ms']) }
    },
    close: () => database.close(),
  }
}

/** Ours: kept beyond the end, so that a clock that was set back makes no session endless. */
const keptMs = 86_400_000
