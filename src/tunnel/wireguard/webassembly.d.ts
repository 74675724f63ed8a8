/* The part of the WebAssembly API that the engine uses: neither TypeScript's ES libraries nor Node's types have it.
 * [W3C WebAssembly JavaScript Interface 2.0] */
declare namespace WebAssembly {
  /** A compiled module; may be posted to a worker. */
  class Module {
    constructor(bytes: BufferSource)
    static imports(module: Module): { readonly module: string; readonly name: string; readonly kind: string }[]
    static exports(module: Module): { readonly name: string; readonly kind: string }[]
    static customSections(module: Module, name: string): ArrayBuffer[]
  }
  /** Linear memory. */
  class Memory {
    constructor(size: { readonly initial: number })
    readonly buffer: ArrayBuffer
  }
  /** Functions that modules call by number. */
  class Table {
    /** Adds entries; the first new one. */
    grow(entries: number): number
    set(at: number, entry: unknown): void
  }
  /** A running module. */
  class Instance {
    constructor(module: Module, imports: Record<string, object>)
    readonly exports: Record<string, unknown>
  }
  /** What `trap`s throw. */
  class RuntimeError extends Error {}
  type BufferSource = ArrayBufferView<ArrayBuffer> | ArrayBuffer
  /** Compiles off the main thread's hot path. */
  function compile(bytes: BufferSource): Promise<Module>
}
