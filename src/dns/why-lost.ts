import type { Ask } from './ask.ts'
import type { Race } from './race.ts'

/** One clause on why a contestant of a race that is over won or lost. */
export function whyLost(ask: Ask, race: Race): string {
  const { result } = race
  if (result?.upstream === ask.upstream) return whyWon(ask, race)
  if (!ask.started) return 'not asked: a resolver of this machine before it knew'
  if (ask.state === 'unreachable') return 'nobody answers there'
  if (ask.state === 'silent') return `no answer to ${ask.sends} ${ask.sends === 1 ? 'query' : 'queries'}`
  if (ask.blocked) return 'turned down: it holds an address that this server may not give'
  return whyNot(ask, race)
}

function whyWon(ask: Ask, race: Race): string {
  const said = ask.reply?.class
  if (said === 'positive')
    return race.plan.mode === 'prefer-service' && ask.owner ? "the service's own answer" : 'first positive answer'
  if (said === 'nodata' && race.plan.mode === 'prefer-service' && ask.owner)
    return "the service's own answer, an empty one"
  if (race.result?.partial) return 'the best answer when the time for the silent ones was over'
  return race.asks.length === 1 ? 'the only one asked' : 'the best answer when all had spoken'
}

function whyNot(ask: Ask, race: Race): string {
  const said = ask.reply?.class
  const endMs = race.result?.atMs ?? race.plan.deadlineMs
  const isLate = (ask.spokeMs ?? 0) > endMs
  if (said === 'failure' || said === 'refused') return 'does not know'
  if (race.result?.upstream === undefined) return 'not believed: no server of the scope could be asked'
  if (said === 'positive') {
    if (isLate) return `positive too, ${((ask.spokeMs ?? endMs) - endMs).toFixed(1)} ms after the end`
    return "positive too, but the service's answer goes first"
  }
  if (isLate) return 'after the end'
  return said === race.result.reply.class ? 'the same, but not the first' : 'a "no" of lower rank than the winner'
}
