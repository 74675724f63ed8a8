//! Token buckets per source address for handshakes under load, as in the Linux kernel's ratelimiter.c.

use crate::token_bucket::{Rate, TokenBucket};
use std::net::IpAddr;

/// Ours, the kernel's figures: handshakes a second and burst per IPv4 address or IPv6 /64.
const RATE: Rate = Rate { per_second: 20.0, burst: 5.0 };
/// Ours: a fixed table, so a flood of sources costs no memory; a collision replaces the older source.
const BUCKETS: usize = 1_024;

#[derive(Clone, Copy)]
struct Bucket {
    source: u64,
    tokens: TokenBucket,
}

/// The buckets of all sources.
pub struct SourceLimit {
    buckets: Vec<Bucket>,
}

impl SourceLimit {
    /// Every source has its full share.
    pub fn new() -> SourceLimit {
        SourceLimit { buckets: vec![Bucket { source: 0, tokens: TokenBucket::new(RATE, 0.0) }; BUCKETS] }
    }

    /// Takes a token; false when the source has used up its share.
    pub fn allow(&mut self, source: IpAddr, now_ms: f64) -> bool {
        let source = key(source);
        let at = (source.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % BUCKETS;
        let bucket = &mut self.buckets[at];
        if bucket.source != source {
            *bucket = Bucket { source, tokens: TokenBucket::new(RATE, now_ms) };
        }
        bucket.tokens.take(RATE, now_ms)
    }
}

/// IPv4: the address; IPv6: the /64.
fn key(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(a) => u64::from(u32::from(a)),
        IpAddr::V6(a) => (u128::from(a) >> 64) as u64,
    }
}
