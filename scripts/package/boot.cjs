'use strict'
// First script of the one-file executable, in the process and in each of its threads. It answers the two shortest command
// lines itself, and otherwise loads the chunks of the bundle from inside the file with the code V8 compiled at build time.
// Nothing here or in a chunk can load code from outside: a name is a builtin of Node or a part of the file, or it fails.
{
  // In a thread Node leaves a `require` that looks into the working directory's node_modules.
  globalThis.require = undefined
  const builtin = process.getBuiltinModule
  const { getRawAsset } = builtin('node:sea')
  const [, script, word] = process.argv
  const alone = process.argv.length === 3

  if (alone && (word === '--version' || word === '-v')) answer('version.txt')
  else if (process.argv.length === 2 || (alone && (word === '--help' || word === '-h' || word === 'help'))) answer('help.txt')
  else if (script === '[worker eval]') load('./worker.cjs')
  else {
    // These would change what the program trusts, whom it asks, or where it writes. Those that Node reads earlier it has no
    // name of (unread-variables.ts), or they are off by its flags.
    for (const name of Object.keys(process.env)) {
      if (/^(NODE|SSL|OPENSSL|GRPC)_|^SSLKEYLOGFILE$|^(https?|all|no|grpc)_proxy$/i.test(name)) delete process.env[name]
    }
    // Node's own answer is off by its flags; without a listener this signal would end the program with nothing put back.
    process.on('SIGUSR1', () => {})
    if (word === 'daemon/main') {
      process.argv.splice(2, 1)
      load('./daemon.cjs')
    } else load('./cli.cjs').run()
  }

  function answer(name) {
    const { writeSync } = builtin('node:fs')
    const text = Buffer.from(getRawAsset(name))
    try {
      for (let at = 0; at < text.length; ) at += writeSync(1, text, at)
    } catch (error) {
      // A reader that left early is no failure.
      if (error.code === 'EPIPE') return
      process.exitCode = 1
      process.stderr.write(`Error (BUG): the answer cannot be written: ${error.message}\n`)
    }
  }

  function load(id) {
    const { Script } = builtin('node:vm')
    const modules = new Map()
    const { execPath } = process
    const chunks = Buffer.from(getRawAsset('chunks.bin'))
    const contents = 4 + chunks.readUInt32LE(0)
    const index = JSON.parse(chunks.latin1Slice(4, contents))
    return require(id)

    function require(id) {
      if (!id.startsWith('./')) return builtinModule(id)
      const name = id.slice(2)
      const known = modules.get(name)
      if (known) return known.exports
      const module = { exports: {}, id: name }
      modules.set(name, module)
      compile(name)(module.exports, require, module, execPath, '/nonexistent')
      return module.exports
    }

    function compile(name) {
      const wrapped = `(function(exports,require,module,__filename,__dirname){${chunk(name).latin1Slice()}\n})`
      return new Script(wrapped, { filename: `nsm:${name}`, cachedData: chunk(`${name}.cache`) }).runInThisContext()
    }

    function chunk(name) {
      const place = index[name]
      return place && chunks.subarray(contents + place[0], contents + place[1])
    }

    function builtinModule(id) {
      const found = builtin(id)
      if (found === undefined) throw Object.assign(new Error(`nsm has no part ${id}`), { code: 'MODULE_NOT_FOUND' })
      return id === 'module' || id === 'node:module' ? { ...found, createRequire: () => require } : found
    }
  }
}
