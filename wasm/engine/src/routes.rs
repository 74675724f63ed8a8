//! Cryptokey routing [WG 2]: the longest allowed prefix decides which peer an address belongs to.

use crate::ip::Address;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Ours: allowed prefixes of all peers together; about 100 bytes each, so 4 MiB at most.
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
    /// Prefixes of each length.
    counts: [u32; 129],
    /// Lengths in use, longest first.
    lengths: Vec<u8>,
    peers: Map<Prefix>,
}

type Map<Key> = HashMap<Key, u32, BuildHasherDefault<Mix>>;

impl Table {
    fn new(width: u8) -> Table {
        Table { width, counts: [0; 129], lengths: Vec::new(), peers: Map::default() }
    }

    fn network(&self, address: u128, bits: u8) -> Prefix {
        let host = u32::from(self.width - bits);
        let network = if host == 128 { 0 } else { address >> host << host };
        Prefix { network, bits }
    }

    fn find(&self, address: u128) -> Option<u32> {
        self.lengths.iter().find_map(|&bits| self.peers.get(&self.network(address, bits)).copied())
    }

    fn insert(&mut self, prefix: Prefix, peer: u32) {
        if self.peers.insert(prefix, peer).is_none() {
            self.count(prefix.bits, 1);
        }
    }

    /// Only when the peer still has it: another may have taken it over.
    fn remove(&mut self, prefix: Prefix, peer: u32) {
        if self.peers.get(&prefix) == Some(&peer) {
            self.peers.remove(&prefix);
            self.count(prefix.bits, -1);
        }
    }

    fn count(&mut self, bits: u8, change: i32) {
        let count = &mut self.counts[usize::from(bits)];
        *count = count.wrapping_add_signed(change);
        self.lengths = (0..=self.width).rev().filter(|&bits| self.counts[usize::from(bits)] > 0).collect();
    }
}

/// Allowed prefixes of all peers, both families.
pub struct Routes {
    v4: Table,
    v6: Table,
    /// What each peer was given.
    given: HashMap<u32, Vec<(bool, Prefix)>>,
    cache: [Option<(Address, u32)>; CACHE],
}

impl Routes {
    /// No prefix at all.
    pub fn new() -> Routes {
        Routes { v4: Table::new(32), v6: Table::new(128), given: HashMap::new(), cache: [None; CACHE] }
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
        let own = self.given.get(&peer).map_or(0, Vec::len);
        let used = self.v4.peers.len() + self.v6.peers.len();
        let valid = prefixes.iter().all(|(address, bits)| *bits <= if address.v6 { 128 } else { 32 });
        if !valid || used + prefixes.len() > PREFIXES_MAX + own {
            return false;
        }
        self.remove(peer);
        let mut given = Vec::with_capacity(prefixes.len());
        for &(address, bits) in prefixes {
            let table = self.table(address.v6);
            let prefix = table.network(address.bits, bits);
            table.insert(prefix, peer);
            given.push((address.v6, prefix));
        }
        self.given.insert(peer, given);
        true
    }

    /// Forgets all prefixes of a peer.
    pub fn remove(&mut self, peer: u32) {
        self.cache = [None; CACHE];
        for (v6, prefix) in self.given.remove(&peer).unwrap_or_default() {
            self.table(v6).remove(prefix, peer);
        }
    }

    fn table(&mut self, v6: bool) -> &mut Table {
        if v6 {
            &mut self.v6
        } else {
            &mut self.v4
        }
    }
}
