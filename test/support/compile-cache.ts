import { enableCompileCache } from 'node:module'
import { tmpdir } from 'node:os'
import { compileCacheDir } from '../../src/daemon/compile-cache.ts'

/* Before each test file. With the program's own cache a packet worker's thread finds its modules stripped of their types.
 * Without it Node strips them by WebAssembly of its own in every thread, and V8 13.6 may crash the process when threads make
 * and free code of modules with imports at once [nodejs/node 64500]. */
enableCompileCache(compileCacheDir(tmpdir()))
