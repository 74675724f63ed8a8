import type { PolicyCheckResult, PolicyTestResult } from '../daemon/policy-protocol.ts'

/** The decision, and the line of the file that makes it. */
export function policyTestText({ isGranted, grant, reason, line, path }: PolicyTestResult): string {
  const where = line === undefined ? path : `${path} line ${line}`
  if (isGranted) return grant === undefined ? 'granted: a server of this network' : `granted by ${grant}, ${where}`
  return line === undefined ? `refused: ${reason}, nothing in ${where} grants it` : `refused: ${reason}, ${where}`
}

/** How much the file says, and whether it is in force. */
export function policyCheckText({ path, domains, grants, denies, error }: PolicyCheckResult): string {
  const counted = `${path}: domains ${domains}, grants ${grants}, denies ${denies}`
  return error === undefined ? counted : `${counted}; the file as it is now is not in force: ${error}`
}
