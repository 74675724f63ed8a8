import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test, vi } from 'vitest'
import { isLinkLocal } from '../../src/identity/fetch-document.ts'
import { fetchIssuerJson } from '../../src/identity/oidc-fetch.ts'

vi.mock('node:dns', async (original) => {
  const names: Record<string, string> = { 'metadata.example': '169.254.169.254', 'issuer.example': '127.0.0.1' }
  const lookup = (name: string, _options: unknown, callback: (error: null, found: object[]) => void) =>
    callback(null, [{ address: names[name] ?? '127.0.0.1', family: 4 }])
  return { ...(await original<typeof import('node:dns')>()), lookup }
})

async function serve(body: string): Promise<number> {
  const server = createServer((_request, response) => void response.end(body))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return (server.address() as AddressInfo).port
}

test('fetchIssuerJson takes the document of a name', async () => {
  const port = await serve('{"a":1}')
  expect(await fetchIssuerJson(`http://issuer.example:${port}/x`)).toEqual({ a: 1 })
})

test('fetchIssuerJson goes to no name that leads to a link-local address', async () => {
  await expect(fetchIssuerJson('http://metadata.example/latest')).rejects.toMatchObject({
    code: 'UNREACHABLE',
    message: expect.stringContaining('link-local'),
  })
})

test('fetchIssuerJson gives up on a document of more than a MiB', async () => {
  const port = await serve(`"${'x'.repeat(1_100_000)}"`)
  await expect(fetchIssuerJson(`http://issuer.example:${port}/`)).rejects.toMatchObject({
    message: expect.stringContaining('too long'),
  })
})

test.each([
  ['169.254.169.254', true],
  ['::ffff:169.254.169.254', true],
  ['::ffff:a9fe:a9fe', true],
  ['fe80::1', true],
  ['fe80::1%eth0', true],
  ['64:ff9b::a9fe:a9fe', true],
  ['fd00:ec2::254', true],
  ['64:ff9b::a00:1', false],
  ['fd00::1', false],
  ['[febf::1]', true],
  ['169.253.1.1', false],
  ['fec0::1', false],
  ['10.0.0.1', false],
  ['127.0.0.1', false],
])('isLinkLocal(%s) is %s', (address, expected) => {
  expect(isLinkLocal(address)).toBe(expected)
})
