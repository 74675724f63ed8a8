import { expect, test } from 'vitest'
import { checkUrlReach } from '../../src/registry/url-reach.ts'

test.each([
  ['tcp://192.0.2.7:5001', '192.0.2.1'],
  ['tcp://10.0.0.7:5001', '10.0.0.7'],
  ['tcp://[2001:db8::7]:5001', '2001:db8::1'],
  ['tcp://vl3.example:5001', '192.0.2.1'],
  ['tcp://127.0.0.1:5001', '127.0.0.1'],
  ['tcp://localhost:5001', '::1'],
  ['tcp://127.0.0.1:5001', '::ffff:127.0.0.1'],
  ['tcp://[fe80::2]:5001', 'fe80::1%eth0'],
  ['unix:///run/nse.sock', '192.0.2.1'],
  ['inproc://nse', '192.0.2.1'],
  ['', '192.0.2.1'],
])('the url %s is taken from %s', (url, from) => {
  expect(() => checkUrlReach(url, from)).not.toThrow()
})

test.each([
  ['tcp://127.0.0.1:22', '192.0.2.1', 'loopback'],
  ['tcp://127.9.9.9:22', '192.0.2.1', 'loopback'],
  ['tcp://localhost:22', '192.0.2.1', 'loopback'],
  ['tcp://db.LocalHost.:22', '192.0.2.1', 'loopback'],
  ['tcp://0.0.0.0:22', '192.0.2.1', 'loopback'],
  ['tcp://[::]:22', '192.0.2.1', 'loopback'],
  ['tcp://[::1]:22', '2001:db8::1', 'loopback'],
  ['tcp://[::ffff:127.0.0.1]:22', '192.0.2.1', 'loopback'],
  ['tcp://[::ffff:7f00:1]:22', '192.0.2.1', 'loopback'],
  ['tcp://127.1:22', '192.0.2.1', 'numeric'],
  ['tcp://2130706433:22', '192.0.2.1', 'numeric'],
  ['tcp://0x7f000001:22', '192.0.2.1', 'numeric'],
  ['tcp://169.254.169.254:80', '192.0.2.1', 'link-local'],
  ['tcp://169.254.169.254:80', '127.0.0.1', 'link-local'],
  ['tcp://[fe80::1]:80', '2001:db8::1', 'link-local'],
  ['tcp://[fd00:ec2::254]:80', 'fd00:ec2::1', 'metadata service'],
  ['tcp://168.63.129.16:80', '10.0.0.4', 'metadata service'],
])('the url %s is not taken from %s', (url, from, place) => {
  expect(() => checkUrlReach(url, from)).toThrow(`a ${place} address`)
})
