import fc from 'fast-check'
import { expect, test } from 'vitest'
import { plainRead, udpPacket } from './packets.ts'
import { collect, createPair, datagramsOf, deviceReads, inner, type Node, receiveBytes } from './wire.ts'

/* A network that loses nothing but takes its time: whatever two peers do meanwhile, each packet arrives once. */

type Step =
  | { readonly kind: 'send' | 'shake'; readonly from: 0 | 1 }
  /** How much of the way to the other is done, as a place in the queue: datagrams may overtake each other. */
  | { readonly kind: 'arrive'; readonly from: 0 | 1; readonly place: number }
  | { readonly kind: 'wait'; readonly ms: number }

const side = fc.constantFrom<0 | 1>(0, 1)
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('send' as const), from: side }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('shake' as const), from: side }) },
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('arrive' as const), from: side, place: fc.nat(30) }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(1, 250, 1_000, 6_000) }),
    },
  ),
  { minLength: 1, maxLength: 120 },
)

const sends = (from: 0 | 1): Step => ({ kind: 'send', from })
const shakes = (from: 0 | 1): Step => ({ kind: 'shake', from })
/** Two initiations of each side cross: nobody is left to wait for a response. */
const crossed = [sends(1), sends(0), shakes(0), shakes(1), sends(0)]
/** The answer to a late initiation takes the place, of eight, where the current session is looked for. */
const late = [
  shakes(0),
  { kind: 'wait', ms: 6_000 } as const,
  shakes(0),
  sends(1),
  shakes(0),
  shakes(0),
  shakes(0),
  shakes(1),
]

test('engines lose and repeat no packet, whoever starts how many handshakes while datagrams overtake each other', () => {
  fc.assert(
    fc.property(steps, (walk) => {
      const world = new World()
      for (const step of walk) world.take(step)
      world.settle()
      expect(world.arrived()).toEqual(world.sent)
    }),
    { numRuns: 100, examples: [[crossed], [late]] },
  )
})

/** Two peers that both know where the other is, and the datagrams on their way. */
class World {
  readonly sent: [string[], string[]] = [[], []]
  readonly #nodes: readonly [Node, Node]
  readonly #ways: readonly [Buffer[], Buffer[]] = [[], []]
  #nowMs = 1

  constructor() {
    const { a, b, toA } = createPair()
    b.engine.setPeer(toA, {
      publicKey: a.publicKey,
      keepaliveSeconds: 0,
      endpoint: a.at,
      allowedPrefixes: ['10.0.0.1'],
    })
    this.#nodes = [a, b]
  }

  take(step: Step): void {
    if (step.kind === 'wait') this.#wait(step.ms)
    else if (step.kind === 'arrive') this.#arrive(step.from, step.place)
    else if (step.kind === 'send') this.#send(step.from)
    else this.#shake(step.from)
  }

  /** Everything on its way arrives, and what is tried again as well. */
  settle(): void {
    for (let round = 0; round < 60; round++) {
      while (this.#ways.some((way) => way.length > 0)) for (const from of [0, 1] as const) this.#arrive(from, 0)
      this.#wait(250)
    }
  }

  arrived(): string[][] {
    return ([1, 0] as const).map((to) =>
      this.#nodes[to].writes.map((write) => inner(write).subarray(28).toString()).toSorted(),
    )
  }

  #shake(from: 0 | 1): void {
    const node = this.#nodes[from]
    node.engine.handshake(0, this.#nowMs)
    this.#say(from, collect(node, this.#nowMs).flatMap(datagramsOf))
  }

  #send(from: 0 | 1): void {
    const text = String(this.sent[from].length).padStart(3, '0')
    this.sent[from].push(text)
    const [here, there] = from === 0 ? ['10.0.0.1', '10.0.0.2'] : ['10.0.0.2', '10.0.0.1']
    const packet = udpPacket({ from: here, to: there, payload: Buffer.from(text) })
    this.#say(from, deviceReads(this.#nodes[from], [plainRead(packet)], this.#nowMs).flatMap(datagramsOf))
  }

  #arrive(from: 0 | 1, place: number): void {
    const [datagram] = this.#ways[from].splice(Math.min(place, this.#ways[from].length - 1), 1)
    if (!datagram) return
    const to = from === 0 ? 1 : 0
    this.#say(to, receiveBytes(this.#nodes[to], datagram, this.#nodes[from].at, this.#nowMs).flatMap(datagramsOf))
  }

  #wait(ms: number): void {
    this.#nowMs += ms
    for (const from of [0, 1] as const) {
      this.#nodes[from].engine.tick(this.#nowMs)
      this.#say(from, collect(this.#nodes[from], this.#nowMs).flatMap(datagramsOf))
    }
  }

  #say(from: 0 | 1, datagrams: readonly Buffer[]): void {
    this.#ways[from].push(...datagrams)
  }
}
