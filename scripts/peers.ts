import { buildRustPrograms, buildWireguardGo } from './bench/wireguard-programs.ts'

/** `npm run peers`: builds the WireGuard programs that the tests and the bench run ours against; says which are absent and why. */
for (const program of [await buildWireguardGo(), ...(await buildRustPrograms())]) {
  const line = 'missing' in program ? program.missing : `${program.name} ${program.version}`
  process.stdout.write(`${line}\n`)
}
