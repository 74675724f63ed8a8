import { machine, type } from 'node:os'
import { programVersion } from '../base/program-version.ts'

/** What `nsm version --json` prints. */
export interface VersionResult {
  readonly apiVersion: 'nsm/version/v1'
  readonly version: string
  readonly node: string
  /** System and processor, as in `linux x86_64`. */
  readonly system: string
  /** The background process, when one runs. */
  readonly daemon?: { readonly version: string; readonly pid: number }
}

/** The version of this program and of what it runs on. */
export function versionResult(daemon?: { readonly version: string; readonly pid: number }): VersionResult {
  return {
    apiVersion: 'nsm/version/v1',
    version: programVersion(),
    node: process.version,
    system: `${type().toLowerCase()} ${machine()}`,
    ...(daemon ? { daemon } : {}),
  }
}

/** One line: program, system, runtime; of the running program, or of one that is built for another system. */
export function versionLine(of: Pick<VersionResult, 'version' | 'system' | 'node'> = versionResult()): string {
  const { version, system, node } = of
  return `nsm ${version} (${system}, Node ${node})`
}

/** The version as text, with the background process on its own line. */
export function versionText(result: VersionResult): string {
  const daemon = result.daemon ? `background process ${result.daemon.version}, pid ${result.daemon.pid}` : undefined
  return [versionLine(), daemon].filter((line) => line !== undefined).join('\n')
}
