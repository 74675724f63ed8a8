import { NsmError } from '../base/errors.ts'

/** Linux: IFNAMSIZ less the final zero. */
const interfaceNameMaxBytes = 15
/** Ours: numbers tried behind a name that is taken. */
const triesMax = 100

/**
 * The name of a connection's interface: the wanted one, or `nsm-` and the service, cut to 15 bytes and made unique.
 * Throws `CONFLICT` when the wanted name is taken, `USAGE` when no interface can be called so.
 */
export function chooseInterfaceName(wanted: string | undefined, service: string, taken: readonly string[]): string {
  if (wanted !== undefined) return checkWanted(wanted, taken)
  const base = `nsm-${service.toLowerCase().replace(/[^a-z0-9-]/g, '-')}`.slice(0, interfaceNameMaxBytes)
  if (!taken.includes(base)) return base
  for (let number = 2; number < triesMax; number++) {
    const suffix = `-${number}`
    const name = `${base.slice(0, interfaceNameMaxBytes - suffix.length)}${suffix}`
    if (!taken.includes(name)) return name
  }
  throw new NsmError('CONFLICT', `every interface name like ${base} is taken`, 'choose one with --interface')
}

function checkWanted(wanted: string, taken: readonly string[]): string {
  if (!/^[A-Za-z0-9._-]+$/.test(wanted) || wanted.length > interfaceNameMaxBytes || /^\.{1,2}$/.test(wanted)) {
    throw new NsmError(
      'USAGE',
      `"${wanted}" cannot name an interface`,
      `use 1 to ${interfaceNameMaxBytes} letters, digits, "-", "_" and "."`,
    )
  }
  if (!taken.includes(wanted)) return wanted
  throw new NsmError(
    'CONFLICT',
    `the interface name ${wanted} is taken by an interface of this machine`,
    'choose another with --interface or in the service URL',
  )
}
