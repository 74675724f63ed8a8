import type { Clock } from '../base/clock.ts'
import { openDatabase } from '../base/database.ts'
import { NsmError } from '../base/errors.ts'
import { formatPrefix, type Prefix, parsePrefix } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import { PrefixPlan, type SitePrefix } from './prefix-plan.ts'

/** Gives parts of the service's prefixes to sites and remembers them; one per service. */
export interface PrefixAuthority {
  readonly prefixes: readonly Prefix[]
  /** Opens a stay: what is taken in it is held until it ends, and rests for its owner afterwards. */
  open(owner: string): PrefixStay
  /** Who holds this very part, or has it resting. */
  ownerOf(prefix: Prefix): string | undefined
  /** What this owner holds, or has resting. */
  partsOf(owner: string): readonly Prefix[]
  close(): void
}

/** What one site holds as long as it stays. */
export interface PrefixStay {
  /** Throws `CONFLICT` when nothing is left, `REFUSED` for too many parts. */
  take(request: { readonly wanted?: Prefix; readonly excluded: readonly Prefix[] }): Prefix
  /** Frees a part of this stay at once; others are left alone. */
  drop(prefix: Prefix): void
  end(): void
}

/**
 * Ours: a site that is away keeps its prefix as long as its identity can live without being renewed; after that it must
 * be invited again and is another one.
 */
export const siteRestMs = 24 * 3_600_000

/** Opens or makes the file. Throws `CONFLICT` for a file of a newer version. */
export function openPrefixAuthority(settings: {
  readonly path: string
  readonly prefixes: readonly Prefix[]
  readonly siteLength: number
  readonly clock: Clock
  readonly log: Log
}): PrefixAuthority {
  const { clock, log, prefixes, siteLength } = settings
  const store = openStore(settings.path)
  // Nobody stays yet: a site that was here when the last run ended has its grace from this moment.
  const known = store.load().map((entry) => ({ ...entry, releasedMs: entry.releasedMs ?? clock.wallMs() }))
  const plan = new PrefixPlan({ prefixes, siteLength, restMs: siteRestMs }, known)
  const holders = new Map<string, PrefixStay>()
  const save = () => store.save(plan.entries())
  save()
  return {
    prefixes,
    ownerOf: (prefix) => plan.ownerOf(prefix),
    partsOf: (owner) => plan.entries().flatMap((entry) => (entry.owner === owner ? [entry.prefix] : [])),
    open(owner) {
      const stay: PrefixStay = {
        take({ wanted, excluded }) {
          const given = plan.allocate({ owner, excluded, nowMs: clock.wallMs(), ...(wanted && { wanted }) })
          if (given === 'exhausted') throw exhausted(prefixes)
          const text = formatPrefix(given)
          if (!holders.has(text)) log.info('a site has a prefix', { peer: owner, prefix: text })
          holders.set(text, stay)
          save()
          return given
        },
        drop(prefix) {
          const text = formatPrefix(prefix)
          if (holders.get(text) !== stay) return
          holders.delete(text)
          plan.free(prefix, owner)
          save()
        },
        end() {
          const mine = [...holders].filter(([, holder]) => holder === stay).map(([text]) => text)
          for (const text of mine) {
            holders.delete(text)
            plan.release(parsePrefix(text), owner, clock.wallMs())
          }
          if (mine.length > 0) save()
        },
      }
      return stay
    },
    close: () => store.close(),
  }
}

function exhausted(prefixes: readonly Prefix[]): NsmError {
  const names = prefixes.map(formatPrefix).join(', ')
  return new NsmError(
    'CONFLICT',
    `no part of ${names} is left for a site`,
    'serve the network on a wider prefix, or divide it finer with --site-prefix-length',
  )
}

interface Store {
  load(): readonly SitePrefix[]
  /** The whole set, in one transaction. */
  save(entries: readonly SitePrefix[]): void
  close(): void
}

/** Ours: raised with each change of the table. */
const schemaVersion = 1
const schema = `CREATE TABLE site_prefixes (
  prefix TEXT PRIMARY KEY, owner TEXT NOT NULL, released_ms INTEGER) STRICT;`

function openStore(path: string): Store {
  const database = openDatabase({ path, schema, schemaVersion })
  const put = database.prepare('INSERT INTO site_prefixes VALUES (?, ?, ?)')
  return {
    load: () =>
      database
        .prepare('SELECT * FROM site_prefixes')
        .all()
        .map((row) => ({
          prefix: parsePrefix(String(row['prefix'])),
          owner: String(row['owner']),
          releasedMs: row['released_ms'] === null ? undefined : Number(row['released_ms']),
        })),
    save(entries) {
      database.exec('BEGIN; DELETE FROM site_prefixes')
      for (const { prefix, owner, releasedMs } of entries) {
        put.run(formatPrefix(prefix), owner, releasedMs === undefined ? null : Math.floor(releasedMs))
      }
      database.exec('COMMIT')
    },
    close: () => database.close(),
  }
}
