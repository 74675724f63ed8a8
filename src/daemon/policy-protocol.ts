/** The policy in force, and why a newer file is not. */
export interface PolicyState {
  readonly path: string
  /** Of the file, hexadecimal. */
  readonly sha256: string
  readonly domains: number
  readonly grants: number
  readonly denies: number
  /** Wall clock, milliseconds since the Unix epoch. */
  readonly loadedMs: number
  /** What is wrong with the file as it is now; the policy before it is in force. */
  readonly error?: string
}

/** What `nsm policy test` asks. */
export interface PolicyTest {
  readonly id: string
  readonly action: string
  readonly service?: string
}

/** What the policy says, with the line of the file that decides. */
export interface PolicyTestResult {
  readonly apiVersion: 'nsm/policy-test/v1'
  readonly id: string
  readonly action: string
  readonly service?: string
  readonly isGranted: boolean
  /** Name of the grant that decides; absent for a refusal, and for this network's own servers. */
  readonly grant?: string
  /** Why not. */
  readonly reason?: string
  /** Of the grant, or of the denial. */
  readonly line?: number
  readonly path: string
}

/** What `nsm policy check` found: of a file, or of the server that runs here. */
export interface PolicyCheckResult {
  readonly apiVersion: 'nsm/policy-check/v1'
  readonly path: string
  readonly domains: number
  readonly grants: number
  readonly denies: number
  /** Only of a running server: why the file as it is now is not in force. */
  readonly error?: string
}
