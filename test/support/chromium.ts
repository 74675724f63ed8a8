import { existsSync } from 'node:fs'
import type { Browser } from 'playwright-core'

const places = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
const executablePath = places.find((path) => existsSync(path))

/** Empty where there is a browser to drive; else the words for the name of a test. */
export const chromiumMissing = executablePath === undefined ? '(skipped: no chromium)' : ''

/** A real browser without a window; whoever opens it closes it. */
export async function openChromium(): Promise<Browser> {
  const { chromium } = await import('playwright-core')
  // Root has no sandbox, and a container little shared memory.
  const args = ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
  return chromium.launch({ ...(executablePath === undefined ? {} : { executablePath }), args })
}
