/** The engine's counters in the order of `Counter` in wasm/engine/src/counters.rs. */
export const counterNames = [
  'malformed',
  'badMac',
  'unknownIndex',
  'unknownKey',
  'unauthentic',
  'replayed',
  'cookiesSent',
  'cookiesReceived',
  'sourceLimited',
  'handshakesCompleted',
  'initiationsSent',
  'badPacket',
  'spoofed',
  'noRoute',
  'noEndpoint',
  'stagingFull',
  'expiredHops',
  'forbiddenAddress',
  'notServed',
  'echoAnswered',
  'hairpin',
  'notDrained',
  'roamed',
  'looped',
  'localLimited',
  'tooBig',
  'connectionsLimited',
] as const

/** Name of one counter. */
export type CounterName = (typeof counterNames)[number]
