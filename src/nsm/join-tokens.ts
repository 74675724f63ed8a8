import { randomBytes } from 'node:crypto'
import { openDatabase } from '../base/database.ts'
import { NsmError } from '../base/errors.ts'
import { secretHash } from '../identity/secret-hash.ts'

/** Join tokens: each gives one identity to whoever shows it first. Kept as hashes, so a stolen file admits nobody. */
export interface JoinTokens {
  /** Makes a token of 256 random bits for one SPIFFE ID; it is shown this once. */
  create(invite: { readonly spiffeId: string; readonly expiresMs: number }): string
  /**
   * Gives the SPIFFE ID of a token and binds the token to the key. The same key may ask again, as after a lost answer.
   * Throws `IDENTITY`, its message ending in TOKEN_UNKNOWN, TOKEN_EXPIRED or TOKEN_REUSED.
   */
  redeem(token: string, shown: { readonly publicKey: Uint8Array; readonly nowMs: number }): string
  close(): void
}

/** Ours: an invitation that nobody took up; the join string is meant to be carried over at once. */
export const joinTokenLifeMs = 900_000

/** Raise it with each change of the table, and say in `open` how the older one becomes the newer. */
const schemaVersion = 1
/** Ours: used and expired tokens are kept this long, so that a late use is told apart from a made-up token. */
const rememberMs = 86_400_000
/** Ours: how often such tokens are looked for; that reads every row, so a join does not do it. */
const forgetEveryMs = 3_600_000
const tokenBytes = 32

const schema = `CREATE TABLE join_tokens (
  token_hash TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, expires_ms INTEGER NOT NULL, key_hash TEXT) STRICT;`

/** Opens or makes the file; `:memory:` keeps nothing. Throws `CONFLICT` for a file of a newer version. */
export function openJoinTokens(path: string): JoinTokens {
  const database = openDatabase({ path, schema, schemaVersion })
  const insert = database.prepare('INSERT INTO join_tokens VALUES (?, ?, ?, NULL)')
  const find = database.prepare('SELECT * FROM join_tokens WHERE token_hash = ?')
  const bind = database.prepare('UPDATE join_tokens SET key_hash = ? WHERE token_hash = ? AND key_hash IS NULL')
  const forget = database.prepare('DELETE FROM join_tokens WHERE expires_ms < ?')
  let forgetAtMs = 0
  const forgetOld = (nowMs: number) => {
    if (nowMs < forgetAtMs) return
    forgetAtMs = nowMs + forgetEveryMs
    forget.run(Math.floor(nowMs) - rememberMs)
  }
  return {
    create({ spiffeId, expiresMs }) {
      const token = randomBytes(tokenBytes).toString('base64url')
      insert.run(secretHash(token), spiffeId, Math.floor(expiresMs))
      return token
    },
    redeem(token, { publicKey, nowMs }) {
      forgetOld(nowMs)
      const row = find.get(secretHash(token))
      if (!row) throw refused('the join token is not known here', 'TOKEN_UNKNOWN')
      const usedBy = row['key_hash']
      if (usedBy !== null && usedBy !== secretHash(publicKey))
        throw refused('the join token was used already', 'TOKEN_REUSED')
      if (Number(row['expires_ms']) <= nowMs) throw refused('the join token is expired', 'TOKEN_EXPIRED')
      bind.run(secretHash(publicKey), secretHash(token))
      return String(row['spiffe_id'])
    },
    close: () => database.close(),
  }
}

function refused(why: string, reason: string): NsmError {
  return new NsmError('IDENTITY', `${why} (${reason})`, 'ask for a new join string: `nsm invite` on the server')
}
