import { describe, expect, test } from 'vitest'
import { certificatesFromPem, certificatesToPem } from '../../src/identity/pem.ts'

describe('certificates as PEM', () => {
  test('have no empty line and come back unchanged, whatever their length', () => {
    for (let length = 1; length < 200; length++) {
      const bytes = [new Uint8Array(length).fill(length), new Uint8Array(48).fill(1)]
      const text = certificatesToPem(bytes)
      expect(text).not.toMatch(/\n\n/)
      expect(text.split('\n').every((line) => line.length <= 64)).toBe(true)
      expect(certificatesFromPem(text).map((der) => new Uint8Array(der))).toEqual(bytes)
    }
  })
})
