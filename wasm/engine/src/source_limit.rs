//! Token buckets per source address for handshakes under load, as in the Linux kernel's ratelimiter.c.

use std::net::IpAddr;

/// Ours, the kernel's figures: handshakes a second and burst per IPv4 address or IPv6 /64.
const PER_SECOND: f64 = 20.0;
const BURST: f64 = 5.0;
/// Ours: a fixed table, so a flood of sources costs no memory; a collision replaces the older source.
const BUCKETS: usize = 1_024;

#[derive(Clone, Copy)]
struct Bucket {
    source: u64,
    tokens: f64,
    at_ms: f64,
}

/// The buckets of all sources.
pub struct SourceLimit {
    buckets: Vec<Bucket>,
}

impl SourceLimit {
    /// Every source has its full share.
    pub fn new() -> SourceLimit {
        SourceLimit { buckets: vec![Bucket { source: 0, tokens: BURST, at_ms: 0.0 }; BUCKETS] }
    }

    /// Takes a token; false when the source has used up its share.
    pub fn allow(&mut self, source: IpAddr, now_ms: f64) -> bool {
        let source = key(source);
        let at = (source.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % BUCKETS;
        let bucket = &mut self.buckets[at];
        if bucket.source != source {
            *bucket = Bucket { source, tokens: BURST, at_ms: now_ms };
        }
        bucket.tokens = (bucket.tokens + (now_ms - bucket.at_ms) * PER_SECOND / 1000.0).min(BURST);
        bucket.at_ms = now_ms;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// IPv4: the address; IPv6: the /64.
fn key(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(a) => u64::from(u32::from(a)),
        IpAddr::V6(a) => (u128::from(a) >> 64) as u64,
    }
}
