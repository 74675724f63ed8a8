import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { askUdp, questionBytes } from '../support/dns-client.ts'
import { DnsUpstream, delayed, scripts } from '../support/dns-upstream.ts'
import { freePort } from '../support/free-port.ts'
import { killed } from '../support/local-process.ts'

const program = nsmProgram

describe('the program nsm dns serve', () => {
  let dir: string
  let port: number
  let first: DnsUpstream
  let second: DnsUpstream
  let child: ChildProcess
  const said: string[] = []
  const config = (upstream: DnsUpstream) => {
    const scope = [`case.test/exclusive=127.0.0.1:${upstream.target.port}`]
    return writeFile(join(dir, 'dns.json'), JSON.stringify({ listen: `127.0.0.1:${port}`, scope }))
  }

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nsm-dns-serve-'))
    port = await freePort()
    first = await DnsUpstream.open(delayed(scripts.answering('10.0.0.1', 0), 30))
    second = await DnsUpstream.open(delayed(scripts.answering('10.0.0.2', 0), 30))
    await config(first)
    child = spawn(program, ['dns', 'serve', '--config', join(dir, 'dns.json')], { stdio: ['ignore', 'pipe', 'pipe'] })
    child.stderr?.on('data', (chunk) => said.push(String(chunk)))
    if (child.stdout) await once(child.stdout, 'data')
  })

  afterAll(async () => {
    await killed(child)
    await Promise.all([first.close(), second.close()])
    await rm(dir, { recursive: true, force: true })
  })

  test('reads its settings again ten times under load and loses no query', async () => {
    const asked: Promise<unknown>[] = []
    const until = async (count: number) => {
      while (said.join('').split('settings read again').length <= count) await once(child.stderr ?? child, 'data')
    }
    for (let round = 1; round <= 10; round++) {
      for (let i = 0; i < 40; i++) asked.push(askUdp(port, questionBytes(`n${round}-${i}.case.test`)))
      await config(round % 2 === 1 ? second : first)
      child.kill('SIGHUP')
      await until(round)
    }
    const addresses = (await Promise.all(asked)).map((found) => JSON.stringify(found))
    expect(addresses.filter((text) => text.includes('10.0.0.1') || text.includes('10.0.0.2'))).toHaveLength(400)
    expect([first.asked.length > 0, second.asked.length > 0]).toEqual([true, true])
  })

  test('goes on with what it has when the file is broken, and ends with 143 on SIGTERM', async () => {
    await writeFile(join(dir, 'dns.json'), '{"listen"')
    const told = once(child.stderr ?? child, 'data')
    child.kill('SIGHUP')
    expect(String(await told)).toContain('not JSON')
    expect((await askUdp(port, questionBytes('still.case.test'))).rcode).toBe('NOERROR')
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    expect(await ended).toEqual([143, null])
  })
})
