//! Cryptokey routing [WG 2]: the longest allowed prefix decides which peer an address belongs to.

use crate::ip::Address;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Ours: allowed prefixes of all peers together; 64 bytes each, so 4 MiB at most.
pub const PREFIXES_MAX: usize = 32_768;
/// Answers of the last lookups: a run of packets asks the same two questions again and again.
const CACHE: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Prefix {
    network: u128,
    bits: u8,
}

impl std::hash::Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.network as u64 ^ (self.network >> 64) as u64 ^ u64::from(self.bits) << 56);
    }
}

/// Prefixes come from the control plane, not from the network: a multiplication is hash enough.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let x = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ x >> 29;
    }
}

/// Prefixes of one family.
struct Table {
    width: u8,
    /// Lengths in use, longest first.
    lengths: Vec<u8>,
    peers: HashMap<Prefix, u32, BuildHasherDefault<Mix>>,
}

impl Table {
    fn new(width: u8) -> Table {
        Table { width, lengths: Vec::new(), peers: HashMap::default() }
    }

    fn network(&self, address: u128, bits: u8) -> Prefix {
        let host = u32::from(self.width - bits);
        let network = if host == 128 { 0 } else { address >> host << host };
        Prefix { network, bits }
    }

    fn find(&self, address: u128) -> Option<u32> {
        self.lengths.iter().find_map(|&bits| self.peers.get(&self.network(address, bits)).copied())
    }

    fn reindex(&mut self) {
        self.lengths = self.peers.keys().map(|prefix| prefix.bits).collect();
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }
}

pub struct Routes {
    v4: Table,
    v6: Table,
    cache: [Option<(Address, u32)>; CACHE],
}

impl Routes {
    pub fn new() -> Routes {
        Routes { v4: Table::new(32), v6: Table::new(128), cache: [None; CACHE] }
    }

    /// The peer an address belongs to.
    #[inline]
    pub fn find(&mut self, address: Address) -> Option<u32> {
        let at = (address.bits ^ address.bits >> 8) as usize % CACHE;
        if let Some((cached, peer)) = self.cache[at] {
            if cached == address {
                return Some(peer);
            }
        }
        let peer = self.table(address.v6).find(address.bits)?;
        self.cache[at] = Some((address, peer));
        Some(peer)
    }

    /// Gives a peer exactly these prefixes. A prefix another peer had moves over, as in every WireGuard.
    /// False, and nothing changed, when the table would exceed its limit or a length is impossible.
    pub fn replace(&mut self, peer: u32, prefixes: &[(Address, u8)]) -> bool {
        let used = self.v4.peers.len() + self.v6.peers.len();
        let valid = prefixes.iter().all(|(address, bits)| *bits <= if address.v6 { 128 } else { 32 });
        if !valid || used + prefixes.len() > PREFIXES_MAX {
            return false;
        }
        self.remove(peer);
        for &(address, bits) in prefixes {
            let table = if address.v6 { &mut self.v6 } else { &mut self.v4 };
            table.peers.insert(table.network(address.bits, bits), peer);
        }
        self.v4.reindex();
        self.v6.reindex();
        true
    }

    pub fn remove(&mut self, peer: u32) {
        self.cache = [None; CACHE];
        for table in [&mut self.v4, &mut self.v6] {
            table.peers.retain(|_, owner| *owner != peer);
            table.reindex();
        }
    }

    fn table(&self, v6: bool) -> &Table {
        if v6 { &self.v6 } else { &self.v4 }
    }
}
