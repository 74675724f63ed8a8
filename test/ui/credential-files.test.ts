import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { findJoinString, readJoinString, readSvidFiles } from '../../src/ui/credential-files.ts'
import { scratchDir } from '../support/scratch.ts'

let dir = ''
beforeEach(async () => {
  dir = await scratchDir()
})
const noInput = () => Promise.reject(new TypeError('standard input was read'))
const usage = (message: string) =>
  expect.objectContaining({
    code: 'USAGE',
    message: expect.stringContaining(message),
    next: expect.stringMatching(/\w/),
  })
const none = { dir: undefined, svid: undefined, key: undefined, bundle: undefined }

describe('findJoinString', () => {
  test.each([
    ['nsm://h:1/?a', 'nsm://h:1/?a'],
    ['# for people\r\n  nsm://h:1/?a  \r\n', 'nsm://h:1/?a'],
    ['nsm://first\nnsm://second\n', 'nsm://first'],
  ])('finds it in %j', (text, found) => expect(findJoinString(text, 'x')).toBe(found))

  test.each(['', '\n', '# nsm://h', 'http://h', 'xnsm://h', '\0\u0001binary'])('says what %j lacks', (text) => {
    expect(() => findJoinString(text, 'the file')).toThrowError(usage('the file holds no join string'))
  })
})

describe('readJoinString', () => {
  test('reads a file, and standard input for a hyphen', async () => {
    await writeFile(join(dir, 'join.txt'), '# a\nnsm://h:1/?a\n')
    expect(await readJoinString(join(dir, 'join.txt'), noInput)).toBe('nsm://h:1/?a')
    expect(await readJoinString('-', async () => 'nsm://h:2/?b')).toBe('nsm://h:2/?b')
    await expect(readJoinString('-', async () => '')).rejects.toThrow(usage('standard input'))
  })

  test('names a file that cannot be read', async () => {
    await expect(readJoinString(join(dir, 'nowhere'), noInput)).rejects.toThrow(usage('nowhere cannot be read'))
    await expect(readJoinString(dir, noInput)).rejects.toThrow(usage('cannot be read'))
  })
})

describe('readSvidFiles', () => {
  test('is nothing when nothing was asked for', async () => {
    expect(await readSvidFiles(none)).toBeUndefined()
  })

  test.each([
    ['spiffe-helper', 'svid.pem', 'svid_key.pem', 'svid_bundle.pem'],
    ['spire-agent', 'svid.0.pem', 'svid.0.key', 'bundle.0.pem'],
    ['plain names', 'svid.pem', 'key.pem', 'bundle.pem'],
  ])('finds the files as %s names them', async (_who, svid, key, bundle) => {
    for (const name of [svid, key, bundle]) await writeFile(join(dir, name), name)
    const found = await readSvidFiles({ ...none, dir })
    const paths = { svidPath: join(dir, svid), keyPath: join(dir, key), bundlePath: join(dir, bundle) }
    expect(found).toEqual({ svidPem: svid, keyPem: key, bundlePem: bundle, paths })
  })

  test('prefers a named file to the folder', async () => {
    for (const name of ['svid.pem', 'key.pem', 'bundle.pem', 'other']) await writeFile(join(dir, name), name)
    const found = await readSvidFiles({ ...none, dir, key: join(dir, 'other') })
    expect(found?.keyPem).toBe('other')
  })

  test('says which file or flag is missing', async () => {
    await writeFile(join(dir, 'svid.pem'), 'x')
    await expect(readSvidFiles({ ...none, dir })).rejects.toThrow(usage('holds none of'))
    await expect(readSvidFiles({ ...none, svid: join(dir, 'svid.pem') })).rejects.toThrow(usage('is missing'))
  })
})
