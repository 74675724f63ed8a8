import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { plainFile, sealedFile } from '../../src/identity/secret-files.ts'
import {
  putAway,
  type SecretStore,
  type SecretStores,
  type StoreChoice,
  storeChoices,
  storeNames,
} from '../../src/identity/secret-store.ts'
import { temporaryDir } from './fixtures.ts'

/** A place that works, takes without keeping, or says no. */
type Kind = 'works' | 'forgets' | 'fails'

function storeOf(kind: Kind, held: Map<string, string>, name: string): SecretStore {
  return {
    async put(secret) {
      if (kind === 'fails') throw new NsmError('NOT_READY', `no ${name}`, '')
      held.set(name, secret)
    },
    get: async () => (kind === 'forgets' ? undefined : held.get(name)),
    remove: async () => void held.delete(name),
  }
}

function places(kinds: readonly [Kind, Kind, Kind]) {
  const held = new Map<string, string>()
  const [keychain, sealed, file] = kinds
  const stores: SecretStores = {
    keychain: storeOf(keychain, held, 'keychain'),
    'encrypted-file': storeOf(sealed, held, 'encrypted-file'),
    file: storeOf(file, held, 'file'),
  }
  return { held, stores }
}

describe('putAway', () => {
  test.each<[StoreChoice, readonly [Kind, Kind, Kind], string, readonly string[]]>([
    ['auto', ['works', 'works', 'works'], 'keychain', []],
    ['auto', ['fails', 'works', 'works'], 'encrypted-file', ['keychain: no keychain']],
    [
      'auto',
      ['forgets', 'fails', 'works'],
      'none',
      ['keychain: it does not give back what it was given', 'encrypted-file: no encrypted-file'],
    ],
    ['keychain', ['fails', 'works', 'works'], 'none', ['keychain: no keychain']],
    ['encrypted-file', ['works', 'works', 'works'], 'encrypted-file', []],
    ['file', ['works', 'works', 'works'], 'file', []],
    ['none', ['works', 'works', 'works'], 'none', []],
  ])('with %s among places that %j takes %s', async (choice, kinds, store, reasons) => {
    const { held, stores } = places(kinds)
    expect(await putAway(stores, 'canary', choice)).toEqual({ store, reasons })
    expect([...held]).toEqual(store === 'none' ? [] : [[store, 'canary']])
  })

  test('never takes the plain file unless it was asked for by name, whatever works', async () => {
    const kinds: Kind[] = ['works', 'forgets', 'fails']
    for (const keychain of kinds) {
      for (const sealed of kinds) {
        for (const choice of storeChoices.filter((one) => one !== 'file')) {
          const { held, stores } = places([keychain, sealed, 'works'])
          await putAway(stores, 'canary', choice)
          expect([...held.keys()].filter((name) => name === 'file')).toEqual([])
          expect(held.size).toBeLessThanOrEqual(1)
        }
      }
    }
    expect(storeNames.at(-1)).toBe('file')
  })
})

const credsMissing = spawnSync('systemd-creds', ['--version']).error ? '(skipped: no systemd-creds)' : ''
const isRoot = process.getuid?.() === 0
const rootMissing = credsMissing || (isRoot ? '' : '(skipped: only root has the key of the machine)')

describe.each([
  ['plain file', '', plainFile],
  ['file that systemd encrypts', rootMissing, sealedFile],
] as const)('a %s %s', (_what, missing, open) => {
  test.skipIf(missing !== '')('gives back what was put, replaces it, and forgets it', async () => {
    const path = join(temporaryDir(), 'state', 'token')
    const store = open(path)
    expect(await store.get()).toBeUndefined()
    for (const secret of ['first', 'a second one\n', '\u00e4'.repeat(8_192)]) {
      await store.put(secret)
      expect(await store.get()).toBe(secret)
      expect([statSync(path).mode & 0o777, statSync(join(path, '..')).mode & 0o777]).toEqual([0o600, 0o700])
    }
    await store.remove()
    expect([await store.get(), existsSync(path)]).toEqual([undefined, false])
    await store.remove()
  })

  test.skipIf(missing !== '')('that others may write is not believed', async () => {
    const path = join(temporaryDir(), 'token')
    const store = open(path)
    await store.put('canary')
    chmodSync(path, 0o622)
    await expect(store.get()).rejects.toMatchObject({ code: 'PERMISSION' })
  })
})

describe('a file that systemd encrypts', () => {
  test.skipIf(rootMissing !== '')(`does not hold the secret ${rootMissing}`, async () => {
    const path = join(temporaryDir(), 'token')
    await sealedFile(path).put('canary')
    const bytes = readFileSync(path, 'utf8')
    expect([bytes.includes('canary'), Buffer.from(bytes, 'base64').includes('canary')]).toEqual([false, false])
  })

  test.skipIf(rootMissing !== '')(`that was changed or is another credential says so ${rootMissing}`, async () => {
    const path = join(temporaryDir(), 'token')
    const store = sealedFile(path)
    await store.put('canary')
    const bytes = Buffer.from(readFileSync(path, 'utf8'), 'base64')
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
    writeFileSync(path, bytes.toString('base64'))
    await expect(store.get()).rejects.toMatchObject({ code: 'NOT_READY' })
    const other = spawnSync('systemd-creds', ['encrypt', '--name=other', '-', '-'], { input: 'canary' })
    writeFileSync(path, other.stdout)
    await expect(store.get()).rejects.toMatchObject({ code: 'NOT_READY' })
  })

  test('is none on a machine without systemd-creds', async () => {
    const path = join(temporaryDir(), 'token')
    const failure = { code: 'NOT_READY', message: expect.stringContaining('no systemd-creds') }
    await expect(sealedFile(path, '/nonexistent').put('canary')).rejects.toMatchObject(failure)
    expect(existsSync(path)).toBe(false)
  })

  test('is none where the program fails, with its last words as the reason, and keeps what was there', async () => {
    const dir = temporaryDir()
    const program = join(dir, 'creds')
    mkdirSync(join(dir, 'state'), { mode: 0o700 })
    writeFileSync(program, '#!/bin/sh\ncat >/dev/null\necho "Using key." >&2\necho "Access denied" >&2\nexit 1\n', {
      mode: 0o700,
    })
    const path = join(dir, 'state', 'token')
    writeFileSync(path, 'sealed', { mode: 0o600 })
    await expect(sealedFile(path, program).put('canary')).rejects.toMatchObject({ message: 'Access denied' })
    expect(readFileSync(path, 'utf8')).toBe('sealed')
  })

  test('gives its program the secret by standard input alone', async () => {
    const dir = temporaryDir()
    const program = join(dir, 'creds')
    const script = '#!/bin/sh\nread secret\nenv; echo "$@"\n'
    writeFileSync(program, script, { mode: 0o700 })
    const path = join(dir, 'token')
    process.env['NSM_TEST_SECRET'] = 'canary'
    await sealedFile(path, program).put('canary\n')
    delete process.env['NSM_TEST_SECRET']
    const seen = readFileSync(path, 'utf8')
    expect([seen.includes('encrypt'), seen.includes('canary')]).toEqual([true, false])
  })
})
