import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { browse, loginClient, startLoginProvider } from '../support/login-provider.ts'
import { startIssuer } from '../support/oidc-issuer.ts'
import { type Block, type Line, linesOf, recipe } from '../support/recipes.ts'
import { type Ended, MeshRig, whyNotHere } from './mesh-rig.ts'

/* The recipes of docs/identity.md, typed as they stand there. Only the names of issuers on the internet become those of
 * issuers that run here; `scp` and `sudo` are three lines each. */

const why = whyNotHere()
const service = 'my-service'

describe.skipIf(why !== undefined)(
  `docs/identity.md takes from nothing to connected${why ? `: skipped, ${why}` : ''}`,
  () => {
    let rig: MeshRig
    /** Becomes of the names in the document. */
    let replaced: Map<string, string>
    const closers: (() => unknown)[] = []

    beforeEach(async () => {
      rig = await MeshRig.open('nsmf5-rec', ['server', 'vm', 'job', 'laptop'])
      replaced = new Map()
      await mkdir(join(rig.dir, 'bin'))
      await symlink(nsmProgram, join(rig.dir, 'bin', 'nsm'))
      await program('scp', 'cp "../$(echo "$1" | tr : /)" "$2"')
      await program('sudo', '[ "$1" = -E ] && shift; SUDO_UID=65534 exec "$@"')
      for (const machine of ['server', 'vm', 'job', 'laptop']) await mkdir(homeOf(machine), { recursive: true })
    })
    afterEach(async () => {
      for (const close of closers.splice(0).reverse()) await close()
      await rig.close()
    })

    const homeOf = (machine: string) => join(rig.dir, 'home', machine)
    const program = async (name: string, body: string) => {
      await writeFile(join(rig.dir, 'bin', name), `#!/bin/sh\nset -e\n${body}\n`)
      await chmod(join(rig.dir, 'bin', name), 0o755)
    }
    const environment = (machine: string) => ({
      PATH: `${join(rig.dir, 'bin')}:${process.env['PATH']}`,
      NSM_STATE_DIR: join(rig.dir, machine),
      NSM_RUNTIME_DIR: join(rig.dir, machine, 'run'),
    })
    const here = (text: string) => [...replaced].reduce((all, [name, url]) => all.replaceAll(name, url), text)

    const type = (machine: string, command: string, more: Record<string, string> = {}) =>
      rig.inside(machine, 'sh', ['-ec', `cd ${homeOf(machine)}; ${here(command)}`], {
        ...environment(machine),
        ...more,
      })
    /** Starts a server and waits until it prints that it can be joined. */
    const stay = async (machine: string, command: string) => {
      const script = `cd ${homeOf(machine)}; exec ${here(command)}`
      const child = spawn('ip', ['netns', 'exec', `${rig.prefix}-${machine}`, 'sh', '-ec', script], {
        env: { ...process.env, ...environment(machine) },
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      closers.push(async () => {
        child.kill('SIGTERM')
        if (child.exitCode === null) await once(child, 'exit')
      })
      let said = ''
      for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
        said += String(chunk)
        if (/^nsm:\/\/.*\n/m.test(said)) break
      }
    }
    /** What the last command printed. */
    const follow = async (lines: readonly Line[]) => {
      let out = ''
      for (const { machine, command } of lines) {
        if (command.startsWith('nsm serve ')) await stay(machine, command)
        else out = ended(await type(machine, command), command)
      }
      return out
    }
    /** Makes a TCP port of this test's loopback one of the machine's. */
    const bring = async (port: number, ...machines: string[]) => {
      const path = join(rig.dir, `${port}.sock`)
      const server = createServer((socket) => {
        const onward = connect(port, '127.0.0.1')
        for (const one of [socket, onward]) one.on('error', () => {})
        socket.pipe(onward).pipe(socket)
      })
      await once(server.listen(path), 'listening')
      closers.push(() => server.close())
      const relay = `require('node:net').createServer((a) => { const b = require('node:net').connect('${path}')
      for (const one of [a, b]) one.on('error', () => {}); a.pipe(b).pipe(a) }).listen(${port}, '127.0.0.1', () => console.log('ready'))`
      for (const machine of machines) {
        const child = spawn('ip', ['netns', 'exec', `${rig.prefix}-${machine}`, process.execPath, '-e', relay])
        closers.push(() => child.kill('SIGKILL'))
        await once(child.stdout, 'data')
      }
    }
    const portOf = (url: string) => Number(new URL(url).port)

    /** Stands in for a platform on the internet. */
    const issuerFor = async (name: string) => {
      const issuer = await startIssuer()
      closers.push(() => issuer.close())
      await bring(portOf(issuer.url), 'server')
      replaced.set(name, issuer.url)
      return issuer
    }

    /** That machine is a member and reaches the service. */
    const expectConnected = async (machine: string, spiffeId: RegExp) => {
      const { connections, identity } = JSON.parse(ended(await type(machine, 'nsm status --json'), 'status'))
      expect(connections).toMatchObject([{ service, state: 'up' }])
      expect(identity.spiffeId).toMatch(spiffeId)
      expect((await type(machine, 'ping -c 1 -W 60 10.64.0.0')).code).toBe(0)
    }

    test('a VM', async () => {
      const [block] = recipe('a VM')
      const out = await follow(linesOf(block ?? nothing))
      expect(out).toMatch(/^my-service +up/)
      await expectConnected('vm', /\/vm-7$/)
    })

    test('a job of GitHub', async () => {
      const issuer = await issuerFor('https://token.actions.githubusercontent.com')
      const [server, file] = recipe('a CI job')
      const joinString = await follow(linesOf(server ?? nothing))
      const { jobs } = parse(file?.text ?? '')
      const { deploy } = jobs
      const asked: (string | null)[] = []
      const service = createHttpServer(async (request, response) => {
        const audience = new URL(request.url ?? '', 'http://x').searchParams.get('audience')
        asked.push(audience)
        if (request.headers.authorization !== 'bearer of-the-job') return void response.writeHead(401).end()
        const claims = { repository_id: '5678', environment: deploy.environment, aud: audience }
        response.end(JSON.stringify({ value: await issuer.token(claims) }))
      }).listen(0, '127.0.0.1')
      await once(service, 'listening')
      closers.push(() => service.close())
      const { port } = service.address() as AddressInfo
      await bring(port, 'job')
      expect(deploy.permissions).toEqual({ 'id-token': 'write' })
      expect(deploy.env).toEqual({ NSM_JOIN_STRING: expect.stringMatching(/^\$\{\{ vars\.NSM_JOIN_STRING \}\}$/) })
      const run = {
        ...{ CI: 'true', GITHUB_ACTIONS: 'true', NSM_JOIN_STRING: joinString },
        ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${port}/token?api-version=2`,
        ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'of-the-job',
      }
      for (const step of deploy.steps) ended(await type('job', step.run, run), step.run)
      expect(asked).toEqual([expect.stringMatching(/^nsm:\/\/nsm-.*\.internal$/)])
      await expectConnected('job', /\/oidc\//)
    })

    test('a job of GitLab', async () => {
      const issuer = await issuerFor('https://gitlab.acme.example')
      const [, , server, file] = recipe('a CI job')
      const joinString = await follow(linesOf(server ?? nothing))
      const { deploy } = parse(file?.text ?? '')
      const { aud } = deploy.id_tokens.NSM_ID_TOKEN
      const idToken = await issuer.token({ aud, project_id: '42', ref_protected: 'true' })
      const run = { CI: 'true', GITLAB_CI: 'true', NSM_JOIN_STRING: joinString, NSM_ID_TOKEN: idToken }
      for (const line of deploy.script) ended(await type('job', line, run), line)
      await expectConnected('job', /^spiffe:\/\/acme\.example\/oidc\//)
    })

    test('a person', async () => {
      const provider = await startLoginProvider({ claims: { groups: ['net-ops'] } })
      closers.push(() => provider.close())
      await bring(portOf(provider.url), 'server', 'laptop')
      replaced.set('https://login.acme.example', provider.url)
      const [settings, commands] = recipe('a person')
      const name = /^json (\S+)$/.exec(settings?.kind ?? '')?.[1] ?? ''
      expect(JSON.parse(settings?.text ?? '').issuers[0].client_id).toBe(loginClient)
      await writeFile(join(homeOf('server'), name), here(settings?.text ?? ''))
      for (const line of linesOf(commands ?? nothing)) {
        if (line.command.startsWith('nsm login ')) await logIn(line)
        else await follow([line])
      }
      await expectConnected('laptop', /\/user\/alice$/)
    })

    /** At a terminal without a display: the person opens the page that is shown, anywhere. */
    const logIn = async ({ machine, command }: Line) => {
      const terminal = join(homeOf(machine), 'terminal')
      await writeFile(terminal, '')
      const typed = type(machine, `script -qefc ${JSON.stringify(command)} terminal`, {
        DISPLAY: '',
        WAYLAND_DISPLAY: '',
        CI: '',
      })
      const shown = await Promise.race([typed.then(({ out }) => out), seen(terminal, /^ {2}http\S+\s+^ {2}\S+\s*$/m)])
      const [, page = '', code = ''] = /^ {2}(http\S+)\s+^ {2}(\S+)\s*$/m.exec(shown) ?? []
      expect(page, shown).not.toBe('')
      await browse(page, { login: 'alice', password: 'x', user_code: code })
      expect(ended(await typed, command)).toContain('/user/alice')
    }
  },
)

const nothing: Block = { kind: '', text: '' }

/** What a command printed; fails with what it said when it did. */
function ended({ code, out, err }: Ended, command: string): string {
  expect(code, `${command}\n${out}${err}`).toBe(0)
  return out
}

/** A file's text once it has what is looked for; the test's own time limit ends it. */
async function seen(path: string, wanted: RegExp): Promise<string> {
  for (;;) {
    const text = await readFile(path, 'utf8')
    if (wanted.test(text)) return text
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
