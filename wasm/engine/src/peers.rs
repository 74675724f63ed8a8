//! The peers of the device: found by handle (the receiver index's upper 24 bits) or by public key.

use crate::endpoint::Endpoint;
use crate::token_bucket::{Rate, TokenBucket};
use crate::too_big::TOO_BIG_RATE;
use crate::tunnel::Tunnel;
use std::collections::HashMap;

/// Ours: packets and bytes kept per peer while a handshake runs, and bytes for all peers together.
/// The protocol's implementations keep 128 packets; a 64 KiB super-packet is 48 of them.
pub const STAGED_PACKETS_MAX: usize = 128;
pub const STAGED_BYTES_MAX: usize = 256 * 1024;
pub const STAGED_TOTAL_MAX: usize = 8 * 1024 * 1024;
/// Ours: packets a second to the host's services from one member, and at once. A page load is some 100 names; a busy
/// machine's resolver asks some hundreds a second. The host takes 30 to 50 us for each.
pub const LOCAL_RATE: Rate = Rate { per_second: 1_000.0, burst: 500.0 };
/// Ours: the same from all members together, 20 % of the host's main thread.
pub const LOCAL_TOTAL_RATE: Rate = Rate { per_second: 4_096.0, burst: 2_048.0 };
/// Ours: unanswered initiations after which a roamed endpoint gives way to the configured one.
const ROAMED_ATTEMPTS: u32 = 2;

/// The handle of no peer.
pub const NOBODY: u32 = u32::MAX;

/// One peer: boringtun's tunnel and what the device keeps beside it.
pub struct Peer {
    pub tunnel: Tunnel,
    /// Where datagrams go; follows authenticated packets.
    pub endpoint: Option<Endpoint>,
    /// Where the control plane said the peer is.
    pub configured: Option<Endpoint>,
    pub keepalive_ms: f64,
    /// Largest packet a hub passes on to it.
    pub limit: usize,
    /// boringtun can seal: without it packets are staged.
    pub has_session: bool,
    pub staged_packets: usize,
    pub staged_bytes: usize,
    pub last_sent_ms: f64,
    /// Packets to the host's services.
    pub local: TokenBucket,
    /// Messages about packets that are too big.
    pub too_big: TokenBucket,
    /// Initiations since the last authenticated packet.
    pub unanswered: u32,
    /// Inner bytes; those of packets that were staged with their padding.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Packets from a source that is not its own.
    pub spoofed: u64,
}

impl Peer {
    /// A peer without endpoint or session.
    pub fn new(tunnel: Tunnel) -> Peer {
        Peer {
            tunnel,
            endpoint: None,
            configured: None,
            keepalive_ms: 0.0,
            limit: usize::MAX,
            has_session: false,
            staged_packets: 0,
            staged_bytes: 0,
            last_sent_ms: f64::NEG_INFINITY,
            local: TokenBucket::new(LOCAL_RATE, 0.0),
            too_big: TokenBucket::new(TOO_BIG_RATE, 0.0),
            unanswered: 0,
            received_bytes: 0,
            sent_bytes: 0,
            spoofed: 0,
        }
    }

    /// After a response or a packet: only these make a session that may be sent with. boringtun would also name one that
    /// answers an initiation and lies, its indices being counted modulo 8, where the current one is looked for.
    pub fn gain_session(&mut self) {
        self.has_session = self.session_lives();
    }

    /// boringtun drops sessions by time.
    pub fn check_session(&mut self) {
        self.has_session &= self.session_lives();
    }

    fn session_lives(&mut self) -> bool {
        self.tunnel.made().is_some_and(|tunnel| tunnel.time_since_last_handshake().is_some())
    }

    /// Counts an initiation; a roamed endpoint that stays silent is given up for the configured one.
    pub fn note_initiation(&mut self) {
        self.unanswered += 1;
        if self.unanswered > ROAMED_ATTEMPTS && self.configured.is_some() {
            self.endpoint = self.configured;
        }
    }

    /// True when one more packet of `bytes` may wait, with `total` bytes waiting for all peers.
    pub fn may_stage(&self, bytes: usize, total: usize) -> bool {
        self.staged_packets < STAGED_PACKETS_MAX
            && self.staged_bytes + bytes <= STAGED_BYTES_MAX
            && total + bytes <= STAGED_TOTAL_MAX
    }
}

/// A bounded table; a peer's handle is its slot.
pub struct Peers {
    slots: Vec<Option<Box<Peer>>>,
    by_key: HashMap<[u8; 32], u32>,
}

impl Peers {
    /// An empty table of `max` slots.
    pub fn new(max: usize) -> Peers {
        Peers { slots: (0..max).map(|_| None).collect(), by_key: HashMap::new() }
    }

    /// Slots, used or not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The handle of a public key.
    pub fn find(&self, key: &[u8; 32]) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The peer of a handle; None for handles that nobody has.
    #[inline]
    pub fn get(&mut self, at: u32) -> Option<&mut Peer> {
        self.slots.get_mut(at as usize)?.as_deref_mut()
    }

    /// The lowest free handle.
    pub fn vacant(&self) -> Option<u32> {
        self.slots.iter().position(Option::is_none).map(|at| at as u32)
    }

    /// Fills a vacant slot.
    pub fn put(&mut self, at: u32, peer: Peer) {
        self.by_key.insert(peer.tunnel.key, at);
        self.slots[at as usize] = Some(Box::new(peer));
    }

    /// Forgets a peer with its keys and its staged packets.
    pub fn take(&mut self, at: u32) -> Option<Box<Peer>> {
        let peer = self.slots.get_mut(at as usize)?.take()?;
        self.by_key.remove(&peer.tunnel.key);
        Some(peer)
    }
}
