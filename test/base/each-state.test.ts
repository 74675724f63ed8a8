import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { eachState } from '../../src/base/each-state.ts'
import { createListeners } from '../../src/base/listeners.ts'

/** A state that a test changes, and how many listen to it. */
function changing(first: string) {
  const listeners = createListeners()
  let state = first
  let count = 0
  const stop = new AbortController()
  const onChange = (listener: () => void) => {
    count++
    const leave = listeners.add(listener)
    return () => {
      count--
      leave()
    }
  }
  const isSame = (told: string, next: string) => told.toLowerCase() === next.toLowerCase()
  return {
    states: eachState({ current: () => state, onChange, isSame }, stop.signal),
    stop,
    listening: () => count,
    set(next: string) {
      state = next
      listeners.tell()
    },
  }
}

describe('eachState', () => {
  test('tells the state at once and after each change', async () => {
    const { states, set } = changing('a')
    expect(await states.next()).toEqual({ done: false, value: 'a' })
    const next = states.next()
    set('b')
    expect(await next).toEqual({ done: false, value: 'b' })
  })

  test('tells changes that come while nobody reads as one, the newest', async () => {
    const { states, set } = changing('a')
    await states.next()
    for (const next of ['b', 'c', 'd']) set(next)
    expect((await states.next()).value).toBe('d')
    const last = states.next()
    set('e')
    expect((await last).value).toBe('e')
  })

  test('tells nothing of a change that says nothing new', async () => {
    const { states, set } = changing('a')
    await states.next()
    const next = states.next()
    set('A')
    // It has looked at the state by then.
    await setImmediate()
    set('b')
    expect((await next).value).toBe('b')
  })

  test('ends with the signal, while it waits and before it began, and listens no more', async () => {
    const { states, stop, listening } = changing('a')
    await states.next()
    const next = states.next()
    expect(listening()).toBe(1)
    stop.abort()
    expect(await next).toEqual({ done: true, value: undefined })
    expect(listening()).toBe(0)
    const late = changing('a')
    late.stop.abort()
    expect((await late.states.next()).done).toBe(true)
    expect(late.listening()).toBe(0)
  })

  test('listens no more to whom nobody reads any more', async () => {
    const { states, listening } = changing('a')
    for await (const state of states) {
      expect(state).toBe('a')
      break
    }
    expect(listening()).toBe(0)
  })
})
