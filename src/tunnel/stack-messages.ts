import type { SocketAddress } from './wireguard/sockaddr.ts'

/* What the main thread and the packet worker say about sockets of the engine's TCP/IP stack. Sockets have numbers: those that
 * the main thread opens count up from 1, connections that peers open count down from -1. Nobody sends more than the other has
 * room for: bytes of a connection and datagrams are given back once they were taken. */

/** What the main thread asks for; only what a socket says is an answer. */
export type StackCommand =
  | { readonly act: 'connect'; readonly socket: number; readonly to: SocketAddress }
  | { readonly act: 'listen'; readonly port: number; readonly listens: boolean }
  /** Port 0 = any free one. */
  | { readonly act: 'udp'; readonly socket: number; readonly port: number }
  | { readonly act: 'echo'; readonly socket: number }
  | { readonly act: 'write'; readonly socket: number; readonly bytes: Uint8Array }
  /** Bytes or datagrams that were taken. */
  | { readonly act: 'taken'; readonly socket: number; readonly count: number }
  /** The port of an echo request is its number. */
  | { readonly act: 'send'; readonly socket: number; readonly to: SocketAddress; readonly bytes: Uint8Array }
  | { readonly act: 'end'; readonly socket: number }
  | { readonly act: 'release'; readonly socket: number; readonly breaks: boolean }

/** What a socket says. */
export type StackNews =
  /** A socket for datagrams or echo requests is there; its port or identifier. */
  | { readonly news: 'open'; readonly port: number }
  /** There will be no such socket. */
  | { readonly news: 'refused' }
  | { readonly news: 'connected' }
  | { readonly news: 'accepted'; readonly port: number; readonly remote: SocketAddress }
  | { readonly news: 'data'; readonly bytes: Uint8Array<ArrayBuffer> }
  /** Bytes that the stack took. */
  | { readonly news: 'wrote'; readonly count: number }
  | { readonly news: 'datagram'; readonly from: SocketAddress; readonly bytes: Uint8Array<ArrayBuffer> }
  /** The other end sends no more. */
  | { readonly news: 'ended' }
  /** The other end refused or broke the connection. */
  | { readonly news: 'reset' }
  /** The other end does not answer. */
  | { readonly news: 'lost' }

/** Ours: bytes of one connection that one thread may have given and the other not taken. */
export const streamWindowBytes = 256 * 1024
/** Ours: datagrams of one socket likewise. */
export const datagramWindow = 128
