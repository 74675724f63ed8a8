import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { type Ended, MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere() ?? (spawnSync('xz', ['--version']).status === 0 ? undefined : 'needs xz')
const ci = resolve(import.meta.dirname, '../../installers/ci')
const tokenPort = 8081
const platform = `linux-${process.arch}`

describe.skipIf(why !== undefined)(`a job of a CI platform in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let issuer: ReturnType<typeof spawn>
  let from: string
  let joinString: string
  let sha256: string
  let untouched: string

  beforeAll(async () => {
    rig = await MeshRig.open('nsmci', ['s', 'a'])
    from = release(rig.dir)
    sha256 = hash('sha256', readFileSync(join(from, `nsm-1.2.3-${platform}.tar.xz`)))
    issuer = startIssuer()
    const url = String((await once(issuer.stdout ?? fail(), 'data'))[0]).trim()
    await rig.serve('--issuer', url, '--allow', 'repository_id=5678,environment=production')
    joinString = (await rig.nsm('s', 'invite', '--open')).out.trim()
    untouched = await rig.fingerprint('a')
  })
  afterAll(async () => {
    issuer?.kill('SIGTERM')
    await rig?.close()
  })

  /** In the namespace of the server, which reaches it on loopback; jobs reach its other side on the switch. */
  function startIssuer() {
    const program = join(import.meta.dirname, 'ci-issuer-program.ts')
    const jobs = { ours: { repository_id: '5678', environment: 'production' }, fork: { repository_id: '666' } }
    const words = [process.execPath, program, '192.0.2.1', String(tokenPort), JSON.stringify(jobs)]
    return spawn('ip', ['netns', 'exec', `${rig.prefix}-s`, ...words], { stdio: ['ignore', 'pipe', 'inherit'] })
  }

  const dirs = () => ({ NSM_STATE_DIR: join(rig.dir, 'a'), NSM_RUNTIME_DIR: join(rig.dir, 'a', 'run') })
  const job = () => ({
    ...dirs(),
    GITHUB_ACTIONS: 'true',
    RUNNER_TEMP: rig.dir,
    ACTIONS_ID_TOKEN_REQUEST_URL: `http://192.0.2.1:${tokenPort}/token?api-version=2`,
    ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'ours',
    GITHUB_STATE: join(rig.dir, 'STATE'),
    GITHUB_PATH: join(rig.dir, 'PATH'),
    GITHUB_OUTPUT: join(rig.dir, 'OUTPUT'),
  })

  function step(name: 'connect' | 'leave', more: Record<string, string>): Promise<Ended> {
    const inputs = { INPUT_SERVICE: service, INPUT_JOIN: joinString, INPUT_FROM: from, INPUT_SHA256: sha256 }
    return rig.inside('a', process.execPath, [join(ci, 'github', `${name}.ts`)], { ...job(), ...inputs, ...more })
  }

  /** What the runner gives to the step after the job. */
  function state(): Record<string, string> {
    const lines = readFileSync(join(rig.dir, 'STATE'), 'utf8').trim().split('\n')
    return Object.fromEntries(lines.map((line) => `STATE_${line}`.split('=')))
  }

  test('is connected by the Action with a token of its own, and leaves no trace in the post step', async () => {
    const connected = await step('connect', { INPUT_ARGUMENTS: '--name\na' })
    expect(connected).toMatchObject({ code: 0 })
    expect((await rig.status('a')).connections[0]).toMatchObject({ state: 'up', name: nameOf('a') })
    const [folder = ''] = readFileSync(join(rig.dir, 'PATH'), 'utf8').split('\n')
    const whoami = await rig.inside('a', join(folder, 'nsm'), ['whoami'], dirs())
    expect(whoami.out).toContain('/oidc/')
    for (const text of [connected.out, connected.err]) expect(text).not.toMatch(/eyJ/)
    expect(await step('leave', state())).toMatchObject({ code: 0 })
    expect(await rig.fingerprint('a')).toBe(untouched)
    expect(readdirSync(rig.dir)).not.toContain(folder.split('/').at(-1))
  })

  test("ends with the server's no when the job is another repository's, and leaves no trace", async () => {
    const refused = await step('connect', { ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'fork' })
    expect([refused.code, refused.err]).toEqual([5, expect.stringContaining('NO_RULE')])
    expect(await step('leave', state())).toMatchObject({ code: 0 })
    expect(await rig.fingerprint('a')).toBe(untouched)
  })

  test("is connected by GitLab's template with the token it was given, and leaves after its script", async () => {
    const template = parse(readFileSync(join(ci, 'gitlab/nsm.gitlab-ci.yml'), 'utf8'))['.nsm']
    const variables = {
      ...dirs(),
      ...{
        GITLAB_CI: 'true',
        CI_JOB_ID: '77',
        TMPDIR: rig.dir,
        NSM_ID_TOKEN: await idToken(),
        NSM_JOIN_STRING: joinString,
      },
      ...{ NSM_NETWORK_SERVICES: service, NSM_FROM: from, NSM_VERSION: '1.2.3', NSM_SHA256: sha256 },
    }
    const run = (lines: readonly string[]) => rig.inside('a', 'sh', ['-c', lines.join('\n')], variables)
    const before = await run([...template.before_script, 'ip -o link'])
    expect([before.code, before.out]).toEqual([0, expect.stringContaining('nsm-')])
    expect((await run(template.after_script)).code).toBe(0)
    expect(await rig.fingerprint('a')).toBe(untouched)
  })

  /** What GitLab puts into the job's variable, for the audience that the template orders. */
  async function idToken(): Promise<string> {
    const audience = `nsm://${/td=([^&]+)/.exec(joinString)?.[1]}`
    const url = `http://192.0.2.1:${tokenPort}/?audience=${encodeURIComponent(audience)}`
    const script = `fetch('${url}', { headers: { authorization: 'bearer ours' } }).then((r) => r.text()).then(console.log)`
    return JSON.parse((await rig.inside('a', process.execPath, ['-e', script])).out).value
  }
})

/** A folder as a release has it, with the program that is tested in the place of the download. */
function release(dir: string): string {
  const name = `nsm-1.2.3-${platform}`
  const from = join(dir, 'release')
  for (const folder of [join(dir, name), from]) mkdirSync(folder)
  const program = join(dir, name, 'nsm')
  if (process.env['NSM_PROGRAM']) copyFileSync(nsmProgram, program)
  else writeFileSync(program, `#!/bin/sh\nexec '${nsmProgram}' "$@"\n`)
  chmodSync(program, 0o755)
  const archive = join(from, `${name}.tar.xz`)
  execFileSync('tar', ['--use-compress-program=xz -0', '-cf', archive, '-C', dir, name])
  writeFileSync(join(from, 'SHA256SUMS'), `${hash('sha256', readFileSync(archive))}  ${name}.tar.xz\n`)
  return from
}

function fail(): never {
  return expect.fail('the issuer says nothing')
}
