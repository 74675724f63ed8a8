import type { Channel } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'

/** Channels to one server that carry watches only, so that watches never take the place of requests. */
export interface WatchChannels {
  readonly monitor: NsmClient['monitor']
  /** Ends every watch. */
  close(): void
}

/** Ours: watches on one channel; servers allow 100 calls on a connection and let the next ones wait, ours among them. */
const watchesPerChannel = 64

interface Line {
  readonly channel: Channel
  readonly client: NsmClient
  watches: number
}

/** Dials when the channels there are have no room, and closes a channel with its last watch. */
export function createWatchChannels(dial: () => Channel): WatchChannels {
  const lines = new Set<Line>()
  const take = (): Line => {
    const roomy = [...lines].find(({ watches }) => watches < watchesPerChannel)
    if (roomy) return roomy
    const channel = dial()
    const line = { channel, client: createNsmClient(channel), watches: 0 }
    lines.add(line)
    return line
  }
  return {
    async *monitor(selector, signal) {
      const line = take()
      line.watches++
      try {
        yield* line.client.monitor(selector, signal)
      } finally {
        line.watches--
        if (line.watches === 0 && lines.delete(line)) line.channel.close()
      }
    },
    close() {
      for (const { channel } of lines) channel.close()
      lines.clear()
    },
  }
}
