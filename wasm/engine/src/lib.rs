//! One WireGuard device in one WebAssembly instance.
//!
//! Outbound: TUN read -> `segment` -> `outbound` (boringtun seals) -> `sends`.
//! Inbound: UDP receive -> `inbound` (boringtun opens) -> `merge` -> TUN write, or `hub` -> `outbound`, or `stack`.
//! The host makes one call per burst through `abi` and never touches a packet.
//! One instance has one thread and the host never calls in while a call runs, so the device is a plain static.

mod abi;
mod aead;
mod checksum;
mod clock;
mod counters;
mod device;
mod endpoint;
mod hub;
mod inbound;
mod ip;
mod low_order;
mod memory;
mod merge;
mod mss;
mod outbound;
mod peers;
mod reassembly;
mod routes;
mod segment;
mod sends;
mod source_limit;
mod split;
mod stack;
mod stack_abi;
mod stack_echo;
mod stack_entry;
mod stack_link;
mod stack_socket;
mod token_bucket;
mod too_big;
mod tunnel;
mod work;
