import type { DescMessage, MessageInitShape } from '@bufbuild/protobuf'
import { frameMessage } from './grpc-message.ts'
import { encode } from './service-definition.ts'

/** All answers of a call, framed, in their order. */
export class EncodedAnswers {
  readonly frames: readonly Buffer[]

  constructor(frames: readonly Buffer[]) {
    this.frames = frames
  }
}

/**
 * Answers that are encoded once for each key and sent many times. The keys are messages that are never changed; an
 * answer is forgotten with its key.
 */
export function createAnswerCache<K extends object, O extends DescMessage>(
  output: O,
  answerOf: (key: K) => MessageInitShape<O>,
): (keys: readonly K[]) => EncodedAnswers {
  const known = new WeakMap<K, Buffer>()
  const frameOf = (key: K) => {
    const held = known.get(key)
    if (held) return held
    const frame = frameMessage(encode(output, answerOf(key)))
    known.set(key, frame)
    return frame
  }
  return (keys) => new EncodedAnswers(keys.map(frameOf))
}
