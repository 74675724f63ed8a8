/** One figure of ours beside a peer's. */
export interface ChartPair {
  readonly label: string
  readonly ours: number
  readonly peer: number
}

/** A group of pairs that share a scale. */
export interface ChartGroup {
  readonly title: string
  readonly pairs: readonly ChartPair[]
}

/** Sizes in pixels. */
const width = 720
const labelWidth = 250
const barHeight = 14
const pairHeight = 2 * barHeight + 10
const titleHeight = 34
const barWidthMax = width - labelWidth - 90
const fills = { ours: '#1f6feb', peer: '#8b949e' } as const

/** Horizontal bars, ours above the peer's, as SVG; the values stand beside the bars. */
export function barChart(
  groups: readonly ChartGroup[],
  names: { readonly ours: string; readonly peer: string },
): string {
  const parts: string[] = []
  let y = 30
  for (const group of groups) {
    parts.push(text(8, y + 22, group.title, 'font-weight="bold"'))
    y += titleHeight
    const largest = Math.max(...group.pairs.flatMap(({ ours, peer }) => [ours, peer]))
    for (const pair of group.pairs) {
      parts.push(text(8, y + barHeight + 4, pair.label))
      parts.push(bar(y, pair.ours / largest, fills.ours), bar(y + barHeight, pair.peer / largest, fills.peer))
      parts.push(value(y, pair.ours, largest), value(y + barHeight, pair.peer, largest))
      y += pairHeight
    }
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + 8}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${y + 8}" fill="#ffffff"/>`,
    legend(names),
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}

function legend({ ours, peer }: { readonly ours: string; readonly peer: string }): string {
  const box = (x: number, fill: string) => `<rect x="${x}" y="10" width="12" height="12" fill="${fill}"/>`
  return [box(8, fills.ours), text(26, 20, ours), box(160, fills.peer), text(178, 20, peer)].join('')
}

function bar(y: number, share: number, fill: string): string {
  return `<rect x="${labelWidth}" y="${y}" width="${(share * barWidthMax).toFixed(1)}" height="${barHeight - 2}" fill="${fill}"/>`
}

function value(y: number, shown: number, largest: number): string {
  return text(labelWidth + (shown / largest) * barWidthMax + 6, y + 11, shown.toPrecision(3))
}

function text(x: number, y: number, shown: string, more = ''): string {
  const escaped = shown.replace(/[&<>]/g, (one) => `&#${one.charCodeAt(0)};`)
  return `<text x="${x.toFixed(1)}" y="${y}" ${more}>${escaped}</text>`
}
