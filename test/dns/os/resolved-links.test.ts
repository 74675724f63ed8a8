import { describe, expect, test } from 'vitest'
import type { LinksJournal } from '../../../src/dns/os/journal.ts'
import { restoreLinks, revertLink, setLink } from '../../../src/dns/os/resolved-links.ts'
import type { Run } from '../../../src/dns/os/run-program.ts'
import { targetText } from '../../../src/dns/upstream-socket.ts'

const listener = { address: '127.0.0.55', port: 53 }

/** Plays systemd-resolved's program: notes the calls, and answers those it knows; all others succeed without a word. */
function script(answers: Readonly<Record<string, string | Error>> = {}) {
  const calls: string[] = []
  const run: Run = async (program, args) => {
    const call = args.join(' ')
    calls.push(`${program} ${call}`)
    const answer = answers[call] ?? ''
    const failed = answer instanceof Error
    return { ok: !failed, stdout: failed ? '' : answer, stderr: failed ? `${answer.message}\n` : '' }
  }
  return { run, calls }
}

describe('setLink', () => {
  test('names the server last, so that names are asked as before until all the rest is told', async () => {
    const { run, calls } = script()
    await setLink({ interfaceName: 'nsm0', searchDomains: [], suffixes: ['a.example'] }, listener, run)
    expect(calls.at(-1)).toBe('resolvectl dns nsm0 127.0.0.55')
    expect(calls.slice(0, -1).sort()).toEqual(
      ['default-route', 'dnsovertls', 'dnssec', 'llmnr', 'mdns']
        .map((verb) => `resolvectl ${verb} nsm0 no`)
        .concat('resolvectl domain nsm0 ~a.example')
        .sort(),
    )
  })

  test.each([
    [['svc.example'], ['svc.example', '10.0.0.0/8'], 'svc.example ~10.in-addr.arpa'],
    [['svc.example.'], ['svc.example'], 'svc.example'],
    [[], ['.'], '~.'],
    [[], [''], '~.'],
    [[], ['a.example', 'a.example.'], '~a.example'],
    [['b.example'], ['a.example'], 'b.example ~a.example'],
  ])('search %j, suffixes %j: domains %s', async (searchDomains, suffixes, domains) => {
    const { run, calls } = script()
    await setLink({ interfaceName: 'nsm0', searchDomains, suffixes }, listener, run)
    expect(calls).toContain(`resolvectl domain nsm0 ${domains}`)
  })

  test.each([
    ['Failed to set DNS configuration: Access denied', 'PERMISSION'],
    ['Failed to set DNS configuration: Interactive authentication required.', 'PERMISSION'],
    ['Failed to resolve interface "nsm0": No such device', 'CONFLICT'],
    ['Invalid DNS server address', 'CONFLICT'],
  ])('says of "%s": %s', async (words, code) => {
    const { run } = script({ 'dns nsm0 127.0.0.55': new Error(words) })
    const attempt = setLink({ interfaceName: 'nsm0', searchDomains: [], suffixes: [] }, listener, run)
    await expect(attempt).rejects.toMatchObject({ code, message: expect.stringContaining(words) })
  })

  test('names no server when something before it failed', async () => {
    const { run, calls } = script({ 'default-route nsm0 no': new Error('Unknown method') })
    await expect(setLink({ interfaceName: 'nsm0', searchDomains: [], suffixes: [] }, listener, run)).rejects.toThrow()
    expect(calls.filter((call) => call.startsWith('resolvectl dns '))).toEqual([])
  })
})

describe('revertLink', () => {
  test.each<[string, string | Error, string, boolean]>([
    ['ours', 'Link 3 (nsm0): 127.0.0.55\n', 'restored', true],
    ['none yet, the rest may be told already', 'Link 3 (nsm0):\n', 'restored', true],
    ['of somebody else', 'Link 3 (nsm0): 192.0.2.1\n', 'left', false],
    ['ours and of somebody else', 'Link 3 (nsm0): 127.0.0.55 192.0.2.1\n', 'left', false],
    ['IPv6 of somebody else', 'Link 3 (nsm0): fd00::1\n', 'left', false],
    ['gone with the interface', new Error('No such device'), 'nothing', false],
  ])('with a server that is %s', async (_what, answer, result, reverts) => {
    const { run, calls } = script({ 'dns nsm0': answer })
    expect(await revertLink('nsm0', '127.0.0.55', run)).toBe(result)
    expect(calls.includes('resolvectl revert nsm0')).toBe(reverts)
  })

  test('knows our server by its port', () => {
    expect(targetText({ address: '127.0.0.55', port: 5355 })).toBe('127.0.0.55:5355')
    expect(targetText(listener)).toBe('127.0.0.55')
  })
})

describe('restoreLinks', () => {
  const journal: LinksJournal = {
    version: 1,
    method: 'resolved',
    server: '127.0.0.55',
    interfaceNames: ['nsm0', 'nsm1', 'nsm2'],
    bootId: '',
    pid: 1,
  }
  const ours = (name: string) => `Link 3 (${name}): 127.0.0.55\n`

  test('takes every link back and forgets what was cached', async () => {
    const { run, calls } = script({ 'dns nsm0': ours('nsm0'), 'dns nsm1': new Error('gone'), 'dns nsm2': ours('nsm2') })
    expect(await restoreLinks(journal, run)).toBe('restored')
    expect(calls.filter((call) => /revert|flush/.test(call))).toEqual([
      'resolvectl revert nsm0',
      'resolvectl revert nsm2',
      'resolvectl flush-caches',
    ])
  })

  test('says "left" when one of them is not ours any more, and takes the others back', async () => {
    const { run, calls } = script({
      'dns nsm0': 'Link 3 (nsm0): 192.0.2.1\n',
      'dns nsm1': ours('nsm1'),
      'dns nsm2': new Error(''),
    })
    expect(await restoreLinks(journal, run)).toBe('left')
    expect(calls).toContain('resolvectl revert nsm1')
  })

  test('has nothing to do when all went with their interfaces', async () => {
    const gone = new Error('No such device')
    const { run, calls } = script({ 'dns nsm0': gone, 'dns nsm1': gone, 'dns nsm2': gone })
    expect(await restoreLinks(journal, run)).toBe('nothing')
    expect(calls.length).toBe(3)
  })
})
