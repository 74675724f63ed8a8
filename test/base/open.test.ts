import { describe, expect, test } from 'vitest'
import { requireLinux } from '../../src/base/open.ts'

describe('requireLinux', () => {
  test('lets Linux through', () => {
    expect(() => requireLinux('tunnels work', 'linux')).not.toThrow()
  })

  test.each(['darwin', 'win32', 'freebsd'])('says on %s what works where, and what to do', (platform) => {
    expect(() => requireLinux('tunnels work', platform)).toThrow(
      expect.objectContaining({
        code: 'USAGE',
        message: `tunnels work on Linux only, and this is ${platform}`,
        next: 'use a Linux machine, VM or container',
      }),
    )
  })
})
