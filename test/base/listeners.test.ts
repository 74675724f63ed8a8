import { describe, expect, test } from 'vitest'
import { createListeners } from '../../src/base/listeners.ts'

describe('listeners', () => {
  test('hear what is told from then on, in the order in which they came, until they leave', () => {
    const listeners = createListeners<[string, number]>()
    const heard: string[] = []
    listeners.tell('before', 0)
    const leave = listeners.add((what, count) => heard.push(`first ${what} ${count}`))
    listeners.add((what) => heard.push(`second ${what}`))
    listeners.tell('a', 1)
    leave()
    leave()
    listeners.tell('b', 2)
    listeners.clear()
    listeners.tell('c', 3)
    expect(heard).toEqual(['first a 1', 'second a', 'second b'])
  })

  test('that come or leave while something is told change nothing of who hears it', () => {
    const listeners = createListeners()
    const heard: string[] = []
    listeners.add(() => {
      heard.push('first')
      leave()
      listeners.add(() => heard.push('late'))
    })
    const leave = listeners.add(() => heard.push('second'))
    listeners.tell()
    expect(heard).toEqual(['first', 'second'])
    listeners.tell()
    expect(heard).toEqual(['first', 'second', 'first', 'late'])
  })

  test('all hear it although one of them fails, and whoever tells gets the first failure', () => {
    const listeners = createListeners()
    const heard: string[] = []
    const failing = (what: string) => () => {
      heard.push(what)
      throw what
    }
    listeners.add(failing('first'))
    listeners.add(failing('second'))
    listeners.add(() => heard.push('third'))
    expect(() => listeners.tell()).toThrow('first')
    expect(heard).toEqual(['first', 'second', 'third'])
  })
})
