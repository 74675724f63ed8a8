import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import { requireLinux } from '../base/open.ts'
import { type IdentityResult, storeChoices } from '../daemon/login-protocol.ts'
import { readJoinString } from '../ui/credential-files.ts'
import { identityText, loginPrompt } from '../ui/login-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** What `nsm login --json` prints. */
type LoginResult = Omit<IdentityResult, 'apiVersion'> & { readonly apiVersion: 'nsm/login/v1' }

/** `nsm login`: a person logs in at the issuer of a server and this machine gets an identity from it. */
export class Login extends NsmCommand {
  static override description =
    'The join string says where the server is; it needs no token, and the server says at which issuer people log in. The\n' +
    'page may be opened in any browser of this machine, or with --method device on any other. The identity is kept until\n' +
    '`nsm logout`; its key never leaves this machine. Where the issuer gives a refresh token, the login outlasts its\n' +
    'session: the token rests in the keychain of this user, else in a file that systemd encrypts; in a plain file only with\n' +
    '--store file, and nowhere with --store none.'
  static override examples = ['nsm login --join server.txt', 'nsm login --join server.txt --method device --store none']
  static override flags = {
    join: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_JOIN',
      summary: 'file with a join string; - reads it from standard input',
    }),
    method: Flags.string({
      default: 'auto',
      options: ['auto', 'browser', 'device'],
      helpValue: 'auto|browser|device',
      env: 'NSM_LOGIN_METHOD',
      summary: 'a browser on this machine or any device; auto takes the browser where there is a display',
    }),
    store: Flags.string({
      default: 'auto',
      options: [...storeChoices],
      helpValue: storeChoices.join('|'),
      env: 'NSM_LOGIN_STORE',
      summary: 'where the refresh token rests; auto takes the keychain, else an encrypted file',
    }),
  }

  async run(): Promise<LoginResult> {
    const { flags } = await this.parse(Login)
    // Before the person is asked: what would be got could not be kept.
    requireLinux('logins are kept')
    const { signal, writeError } = this.context
    const joinString = await this.#joinString(flags.join)
    const show = (prompt: Parameters<typeof loginPrompt>[0]) => writeError(loginPrompt(prompt))
    const store = storeChoices.find((choice) => choice === flags.store) ?? 'auto'
    const around = { method: this.#method(flags.method), keep: store !== 'none', show, signal }
    await this.#checkNotConnected()
    const obtained = await this.context.obtainLogin(joinString, around)
    const who = await this.withDaemon(true, (daemon) => daemon.login({ joinString, ...obtained, store }, signal))
    this.log(identityText(who, this.context.wallMs()))
    return { ...who, apiVersion: 'nsm/login/v1' }
  }

  async #joinString(path: string | undefined): Promise<string> {
    if (path !== undefined) return readJoinString(path, this.context.readInput)
    const given = this.context.environment['NSM_JOIN_STRING']
    if (given !== undefined) return given
    throw new NsmError(
      'USAGE',
      'nothing says where the server is',
      'nsm login --join FILE, from the output of nsm serve',
    )
  }

  /** The background process refuses it too, but only once the person has logged in. */
  async #checkNotConnected(): Promise<void> {
    const connections = await this.askIfRunning([], async (daemon) => (await daemon.status()).connections)
    if (connections.length === 0) return
    throw new NsmError('CONFLICT', 'the identity is in use by connections', 'leave them first: nsm disconnect')
  }

  /** A runner has nobody to ask, and a person without a display opens the page elsewhere. */
  #method(asked: string): 'browser' | 'device' {
    const { environment, isTerminal } = this.context
    if (asked === 'browser' || asked === 'device') return asked
    if (environment['CI'] || !isTerminal) {
      const next = 'use nsm connect with an ID token of the platform, or say --method device'
      throw new NsmError('IDENTITY', 'a login needs a person, and there is no terminal', next)
    }
    return environment['DISPLAY'] || environment['WAYLAND_DISPLAY'] ? 'browser' : 'device'
  }
}
