'use strict'
// Stands in for the one-file executable at build time: `node warm.cjs FOLDER [ARG ...]` runs the boot script with the parts
// of a folder, and at the end writes what V8 has compiled of each chunk back beside it. Code that ran is in the cache with
// its functions; so a start neither parses nor compiles them.
{
  const { readFileSync, renameSync, writeFileSync } = require('node:fs')
  const { join } = require('node:path')
  const vm = require('node:vm')
  const { isMainThread, threadId } = require('node:worker_threads')
  const folder = globalThis.nsmWarmFolder ?? process.argv[2]
  const read = (name) => readFileSync(join(folder, name))
  const scripts = new Map()

  class Script extends vm.Script {
    constructor(code, { filename }) {
      const name = filename.slice('nsm:'.length)
      // What another process compiled is kept: one chunk serves many commands.
      super(code, { filename, cachedData: cacheOf(name) })
      scripts.set(name, this)
    }
  }
  const sea = { isSea: () => true, getRawAsset: partOf }
  const builtin = process.getBuiltinModule
  process.getBuiltinModule = (id) => (id === 'node:sea' ? sea : id === 'node:vm' ? { ...vm, Script } : builtin(id))
  process.on('exit', keep)
  // With this the background process ends itself.
  process.on('SIGUSR2', () => process.exit())
  if (isMainThread) {
    process.execPath = join(folder, 'nsm')
    process.argv.splice(0, 3, process.execPath, process.execPath)
  }
  vm.runInThisContext(read('boot.cjs').toString('latin1'), { filename: 'boot.cjs' })

  function cacheOf(name) {
    try {
      return read(`${name}.cache`)
    } catch {
      return undefined
    }
  }

  /** A thread is given this script before the boot script. */
  function partOf(name) {
    const bytes = name === 'boot.cjs' ? Buffer.from(threadSource()) : read(name)
    return Uint8Array.from(bytes).buffer
  }

  function threadSource() {
    return `globalThis.nsmWarmFolder = ${JSON.stringify(folder)};${readFileSync(join(folder, 'warm.cjs'), 'latin1')}`
  }

  function keep() {
    for (const [name, script] of scripts) {
      const path = join(folder, `${name}.cache`)
      writeFileSync(`${path}.${process.pid}.${threadId}`, script.createCachedData())
      renameSync(`${path}.${process.pid}.${threadId}`, path)
    }
  }
}
