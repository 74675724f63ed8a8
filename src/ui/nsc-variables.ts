import { parseDurationMs } from '../base/duration.ts'
import { NsmError } from '../base/errors.ts'
import type { Environment } from '../base/settings.ts'
import type { ConnectRequest } from '../daemon/protocol.ts'

/* Variables of cmd-nsc that have no flag here. What is set but empty counts as not set. [NSM cmd-nsc internal/config] */

/** What those variables ask for. */
export type NscVariables = Pick<
  ConnectRequest,
  | 'dialTimeoutMs'
  | 'tokenLifetimeMs'
  | 'livenessEnabled'
  | 'livenessIntervalMs'
  | 'livenessTimeoutMs'
  | 'awarenessGroups'
>

/** Reads them; throws `USAGE` naming the variable that cannot be understood. */
export function nscVariables(environment: Environment): NscVariables {
  const mechanism = environment['NSM_MECHANISM'] || 'kernel'
  if (mechanism.toLowerCase() !== 'kernel') {
    throw wrong('NSM_MECHANISM', `the mechanism ${JSON.stringify(mechanism.slice(0, 32))} is not supported`, 'kernel')
  }
  const dialTimeoutMs = durationOf(environment, 'NSM_DIAL_TIMEOUT')
  const tokenLifetimeMs = durationOf(environment, 'NSM_MAX_TOKEN_LIFETIME')
  const livenessEnabled = switchOf(environment, 'NSM_LIVENESS_CHECK_ENABLED')
  const livenessIntervalMs = durationOf(environment, 'NSM_LIVENESS_CHECK_INTERVAL')
  const livenessTimeoutMs = durationOf(environment, 'NSM_LIVENESS_CHECK_TIMEOUT')
  const awarenessGroups = groupsOf(environment, 'NSM_AWARENESS_GROUPS')
  return {
    ...(dialTimeoutMs === undefined ? {} : { dialTimeoutMs }),
    ...(tokenLifetimeMs === undefined ? {} : { tokenLifetimeMs }),
    ...(livenessEnabled === undefined ? {} : { livenessEnabled }),
    ...(livenessIntervalMs === undefined ? {} : { livenessIntervalMs }),
    ...(livenessTimeoutMs === undefined ? {} : { livenessTimeoutMs }),
    ...(awarenessGroups === undefined ? {} : { awarenessGroups }),
  }
}

/** Reads a switch as Go does; undefined when it is not set. Throws `USAGE`. [Go strconv ParseBool] */
export function switchOf(environment: Environment, variable: string): boolean | undefined {
  const text = environment[variable]
  if (!text) return undefined
  if (/^(1|t|true)$/i.test(text)) return true
  if (/^(0|f|false)$/i.test(text)) return false
  throw wrong(variable, `${JSON.stringify(text.slice(0, 32))} is not a switch`, 'true or false')
}

function durationOf(environment: Environment, variable: string): number | undefined {
  const text = environment[variable]
  if (!text) return undefined
  try {
    return parseDurationMs(text)
  } catch {
    throw wrong(variable, `${JSON.stringify(text.slice(0, 32))} is not a duration`, '500ms, 5s or 1m30s')
  }
}

/** `[url,url],[url]` */
function groupsOf(environment: Environment, variable: string): readonly (readonly string[])[] | undefined {
  const plain = environment[variable]?.replace(/\s/g, '')
  if (!plain) return undefined
  if (!/^\[[^[\]]+\](,\[[^[\]]+\])*$/.test(plain)) {
    throw wrong(variable, 'the groups cannot be read', '[kernel://a,kernel://b],[kernel://c]')
  }
  return plain
    .slice(1, -1)
    .split('],[')
    .map((group) => group.split(',').filter((url) => url !== ''))
}

function wrong(variable: string, why: string, like: string): NsmError {
  return new NsmError('USAGE', `${variable}: ${why}`, `write it like ${variable}=${like}`)
}
