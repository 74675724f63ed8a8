import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')

/** Imports a module in a process of its own, and says which of `names` came with it. */
function loadedWith(module: string, names: readonly string[] = heavy): readonly string[] {
  const script = `
    import { createRequire } from 'node:module'
    await import(${JSON.stringify(resolve(root, module))})
    const files = Object.keys(createRequire(import.meta.url).cache)
    const loaded = [...process.moduleLoadList, ...files.map((file) => file.replace(/^.*node_modules\\//, ''))]
    console.log(JSON.stringify(loaded))`
  const words = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script]
  const loaded: readonly string[] = JSON.parse(execFileSync(process.execPath, words, { cwd: root, encoding: 'utf8' }))
  return names.filter((name) => loaded.some((one) => one === `NativeModule ${name}` || one.startsWith(`${name}/`)))
}

/** Each costs a start milliseconds, and memory for ever. */
const heavy = ['@grpc/grpc-js', 'http', 'http2', 'https', 'yaml']

test.each([
  ['a server', 'src/daemon/serve.ts'],
  ['the background process', 'src/daemon/run-daemon.ts'],
  ['the socket of applications', 'src/nsm/workload-service.ts'],
])('%s starts without what only calls to others need', (_what, module) => {
  expect(loadedWith(module)).toEqual([])
})

test.each([
  ['a call', 'src/nsm/channel.ts'],
  ['a login, until a person is asked', 'src/daemon/login.ts'],
])('neither does %s', (_what, module) => {
  expect(loadedWith(module)).toEqual([])
})

test('a question to the background process goes without what starts one', () => {
  const { starter, asker } = { starter: 'src/daemon/start.ts', asker: 'src/daemon/client.ts' }
  expect(loadedWith(starter, ['child_process'])).toEqual(['child_process'])
  expect(loadedWith(asker, ['child_process'])).toEqual([])
})

test.each([
  ['a login page', 'src/identity/oidc-code-flow.ts', ['http']],
  ['a policy file', 'src/identity/policy-file.ts', ['yaml']],
  ['a file of issuers', 'src/identity/issuers-file.ts', ['yaml']],
])('%s loads it, so that the list above is true', (_what, module, loaded) => {
  expect(loadedWith(module)).toEqual(expect.arrayContaining(loaded))
})
