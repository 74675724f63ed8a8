import { NsmCommand } from '../ui/nsm-command.ts'
import { type VersionResult, versionResult, versionText } from '../ui/version-info.ts'

/** `nsm version`: this program, what it runs on, and the background process when one runs. */
export class Version extends NsmCommand {
  static override examples = ['nsm version --json']

  async run(): Promise<VersionResult> {
    await this.parse(Version)
    const daemon = await this.withDaemon(false, (found) => found.version()).catch(() => undefined)
    const result = versionResult(daemon)
    this.log(versionText(result))
    return result
  }
}
