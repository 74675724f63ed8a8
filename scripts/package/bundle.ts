import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { join } from 'node:path'
import { rolldown } from 'rolldown'
import { NsmError } from '../../src/base/errors.ts'
import { bootModule, shareDefaults } from './shared-defaults.ts'

/** What was bundled. */
export interface Bundled {
  readonly chunks: readonly string[]
  /** Paths of the files that are inside. */
  readonly modules: readonly string[]
}

/** Bundles the program into `dir` as CommonJS chunks in ASCII, one per command and per large package. */
export async function bundle(root: string, dir: string): Promise<Bundled> {
  const alias = { debug: join(import.meta.dirname, 'no-debug.cjs') }
  const bundled = await rolldown({
    input: entries(root),
    platform: 'node',
    cwd: root,
    logLevel: 'warn',
    resolve: { alias },
    plugins: [withoutUnused, withSharedDefaults],
  })
  const { output } = await bundled.write({
    dir,
    format: 'cjs',
    minify: true,
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name].cjs',
    codeSplitting: { groups },
  })
  await bundled.close()
  const chunks = readdirSync(dir).sort()
  for (const chunk of chunks) finish(join(dir, chunk))
  const modules = output.flatMap((part) => (part.type === 'chunk' ? part.moduleIds : []))
  return { chunks, modules: modules.filter((path) => !unused.test(path)) }
}

/**
 * Parts of oclif that are loaded with it and that no command uses: finding plugins and TypeScript on disk, help, spinners,
 * colours, which shell this is. A third of each start was theirs.
 */
const unused = new RegExp(
  [
    '@oclif/core/lib/(config/(plugin|plugin-loader|ts-path)|help/index|module-loader|performance|ux/action/.*|ux/colorize-json)',
    '@oclif/core/lib/(util/(determine-priority|fs|os)|errors/(handle|errors/pretty-print))',
    '(ansis|ejs|indent-string|supports-color|wrap-ansi)/.*',
  ]
    .map((path) => `/node_modules/${path}\\.js$`)
    .join('|'),
)

/** A class, for some are extended or constructed when they are loaded. */
const withoutUnused = {
  name: 'without-unused',
  load: (id: string) => (unused.test(id) ? 'module.exports = class {}' : null),
}

const withSharedDefaults = {
  name: 'with-shared-defaults',
  transform: (code: string, id: string) => (bootModule.test(id) ? shareDefaults(code) : null),
}

/** What the boot script starts: the command line, the background process, a thread. */
const entries = (root: string) => ({
  cli: join(root, 'bin/run.js'),
  daemon: join(root, 'src/daemon/main.ts'),
  worker: join(root, 'src/tunnel/worker.ts'),
})

/** Packages that many chunks share, each loaded as one. */
const groups = [
  { name: 'oclif', test: /node_modules\/@oclif/, priority: 3 },
  { name: 'protobuf', test: /node_modules\/@bufbuild/, priority: 3 },
]

/** The executable reads its chunks as one byte per character, the cheapest way into V8. */
function finish(path: string): void {
  const ascii = readFileSync(path, 'utf8').replace(/[\u0080-\uffff]/g, escaped)
  const foreign = foreignNames(ascii)
  if (foreign.length > 0)
    throw new NsmError('BUG', `${path} requires ${foreign.join(', ')}`, 'bundle it or leave it out')
  writeFileSync(path, ascii)
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** What a chunk asks for that is neither a chunk nor part of Node. */
export function foreignNames(code: string): readonly string[] {
  const asked = [...code.matchAll(/\brequire\(\s*["'`]([^"'`]+)["'`]\s*\)/g)].map(([, name = '']) => name)
  return asked.filter((name) => !name.startsWith('./') && !isBuiltin(name))
}
