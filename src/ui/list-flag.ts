/** The values of a flag that may be repeated; the text of its variable holds them apart by commas. */
export function listOfFlag(value: readonly string[] | string | undefined): readonly string[] {
  return [value ?? []]
    .flat()
    .flatMap((text) => text.split(','))
    .map((text) => text.trim())
    .filter((text) => text !== '')
}
