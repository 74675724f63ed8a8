import { describe, expect, test } from 'vitest'
import { type Environment, readSettings } from '../../src/base/settings.ts'

const user = { HOME: '/home/alice' }

describe('readSettings', () => {
  test.each<[string, Environment, number, string, string]>([
    ['root', {}, 0, '/var/lib/nsm', '/run/nsm'],
    ['a user', user, 1000, '/home/alice/.local/state/nsm', '/home/alice/.local/state/nsm/run'],
    [
      'a user with XDG folders',
      { ...user, XDG_STATE_HOME: '/x/state', XDG_RUNTIME_DIR: '/run/user/1000' },
      1000,
      '/x/state/nsm',
      '/run/user/1000/nsm',
    ],
    ['root, whatever XDG says', { XDG_STATE_HOME: '/x', XDG_RUNTIME_DIR: '/y' }, 0, '/var/lib/nsm', '/run/nsm'],
    ['our own variables', { NSM_STATE_DIR: '/s', NSM_RUNTIME_DIR: '/r' }, 0, '/s', '/r'],
  ])('finds the folders of %s', (_who, environment, uid, stateDir, runtimeDir) => {
    expect(readSettings(environment, uid)).toMatchObject({ stateDir, runtimeDir })
  })

  test.each([
    [undefined, 'info'],
    ['debug', 'debug'],
    ['WARN', 'warn'],
    ['error', 'error'],
    ['chatty', 'info'],
  ])('reads the log level %s as %s', (text, logLevel) => {
    expect(readSettings({ NSM_LOG_LEVEL: text }, 0).logLevel).toBe(logLevel)
  })

  test('knows the resolver file of the system, and another one on request', () => {
    expect(readSettings({}, 0).resolvConf).toBe('/etc/resolv.conf')
    expect(readSettings({ NSM_RESOLV_CONF: '/etc/other.conf' }, 0).resolvConf).toBe('/etc/other.conf')
  })
})
