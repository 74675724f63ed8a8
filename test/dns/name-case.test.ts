import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NameCase } from '../../src/dns/name-case.ts'
import { parseQuery } from '../../src/dns/question.ts'
import { questionBytes } from '../support/dns-client.ts'

const name = 'a-rather-long-name-with-many-letters.example'

function sent(nameCase: NameCase, nowMs = 0): { readonly bytes: Buffer; readonly questionEnd: number } {
  const bytes = questionBytes(name)
  const query = parseQuery(Buffer.from(bytes))
  const questionEnd = query.kind === 'query' ? query.questionEnd : 0
  nameCase.mix(bytes, questionEnd, nowMs)
  return { bytes, questionEnd }
}

const plain = questionBytes(name)
const isMixed = (bytes: Buffer) => !bytes.equals(plain)

/** Lets an upstream echo our spelling so often that it is known for it. */
function trusted(): NameCase {
  const nameCase = new NameCase()
  for (let i = 0; i < 8; i++) {
    const { bytes, questionEnd } = sent(nameCase)
    expect(nameCase.accepts(bytes, bytes, { questionEnd, nowMs: 0 })).toBe(true)
  }
  return nameCase
}

describe('NameCase', () => {
  test('changes nothing but the case of letters, and not twice the same', () => {
    const nameCase = new NameCase()
    const spellings = new Set<string>()
    for (let i = 0; i < 20; i++) {
      const { bytes } = sent(nameCase)
      expect(bytes.toString('latin1').toLowerCase()).toBe(plain.toString('latin1').toLowerCase())
      expect(bytes.subarray(-4)).toEqual(plain.subarray(-4))
      spellings.add(bytes.toString('latin1'))
    }
    expect(spellings.size).toBeGreaterThan(15)
  })

  test('leaves type and class alone also when their bytes are letters', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff }), (type) => {
        const bytes = questionBytes('abc.example')
        bytes.writeUInt16BE(type, bytes.length - 4)
        new NameCase().mix(bytes, bytes.length, 0)
        expect(bytes.readUInt16BE(bytes.length - 4)).toBe(type)
      }),
    )
  })

  test('takes any spelling of an upstream it does not know yet, and then asks it plainly for 15 minutes', () => {
    const nameCase = new NameCase()
    const { bytes, questionEnd } = sent(nameCase)
    expect(nameCase.accepts(plain, bytes, { questionEnd, nowMs: 0 })).toBe(true)
    expect(isMixed(sent(nameCase, 1).bytes)).toBe(false)
    expect(isMixed(sent(nameCase, 15 * 60_000).bytes)).toBe(true)
  })

  test('turns down another spelling from an upstream that keeps ours', () => {
    const nameCase = trusted()
    const { bytes, questionEnd } = sent(nameCase)
    expect(nameCase.accepts(plain, bytes, { questionEnd, nowMs: 0 })).toBe(false)
    expect(nameCase.accepts(bytes, bytes, { questionEnd, nowMs: 0 })).toBe(true)
  })

  test('believes after three other spellings in a row that the server is another one', () => {
    const nameCase = trusted()
    const { bytes, questionEnd } = sent(nameCase)
    const verdicts = [1, 2, 3].map(() => nameCase.accepts(plain, bytes, { questionEnd, nowMs: 0 }))
    expect(verdicts).toEqual([false, false, true])
    expect(isMixed(sent(nameCase).bytes)).toBe(false)
  })

  test('learns nothing from a reply without a question', () => {
    const nameCase = trusted()
    const { bytes, questionEnd } = sent(nameCase)
    const bare = Buffer.alloc(60)
    expect(nameCase.accepts(bare, bytes, { questionEnd, nowMs: 0 })).toBe(true)
    expect(isMixed(sent(nameCase).bytes)).toBe(true)
  })
})
