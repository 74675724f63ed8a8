import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'nsm-other-platform-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** What Node says of the system, as it would there; what the system does is still this one's. */
const lies = {
  darwin: "Object.defineProperty(process, 'platform', { value: 'darwin' })",
  win32: "Object.defineProperty(process, 'platform', { value: 'win32' }); process.getuid = undefined",
} as const

function run(platform: keyof typeof lies, ...words: readonly string[]) {
  const lie = join(dir, `${platform}.mjs`)
  const env = { ...process.env, NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  const args = ['--disable-warning=ExperimentalWarning', '--import', lie, join(root, 'bin/nsm.js'), ...words]
  return new Promise<{ readonly exitCode: number | null; readonly out: string; readonly err: string }>((settle) => {
    const child = execFile(process.execPath, args, { env }, (_error, out, err) =>
      settle({ exitCode: child.exitCode, out, err }),
    )
  })
}

const joinFile = join(dir, 'join.txt')
beforeAll(() => {
  for (const [name, text] of Object.entries(lies)) writeFileSync(join(dir, `${name}.mjs`), text)
  const pin = `sha256-${'A'.repeat(43)}`
  writeFileSync(joinFile, `nsm://127.0.0.1:1/?td=example.org&pin=${pin}&jt=${'a'.repeat(43)}\n`)
})

describe.each(['darwin', 'win32'] as const)('nsm on %s', (platform) => {
  test('shows its help and its version', async () => {
    expect(await run(platform, '--help')).toMatchObject({ exitCode: 0, err: '' })
    expect(await run(platform, 'version')).toMatchObject({ exitCode: 0, err: '' })
    expect((await run(platform, 'connect', '--help')).out).toContain('--join')
  })

  test.each([
    ['connect', ['connect', '--join', joinFile, 'my-networkservice-1']],
    ['login', ['login', '--join', joinFile, '--method', 'device']],
    ['serve', ['serve', '--listen', '127.0.0.1:0']],
    ['cleanup', ['cleanup']],
  ])('says that %s needs Linux, before a key is made or a join string is spent', async (_name, words) => {
    const { exitCode, err } = await run(platform, ...words)
    expect([exitCode, err]).toEqual([2, expect.stringContaining(`on Linux only, and this is ${platform}`)])
    expect(err).toContain('use a Linux machine, VM or container')
    const left = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((name) => /key|svid|sock$/.test(name))
    expect(left).toEqual([])
  })
})
