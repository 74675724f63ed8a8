//! The device: one static key, its peers, its buffers. The other files add what it does.

use crate::clock::Clock;
use crate::counters::{Counters, COUNT};
use crate::endpoint::Endpoint;
use crate::hub::Gateway;
use crate::ip::Address;
use crate::low_order::is_low_order;
use crate::memory::{Descriptors, InputRing, Region, MARGIN, PACKET_MAX, VNET_BYTES};
use crate::merge::Merge;
use crate::peers::{Peer, Peers, LOCAL_TOTAL_RATE};
use crate::routes::Routes;
use crate::sends::Sends;
use crate::source_limit::SourceLimit;
use crate::stack::Stack;
use crate::token_bucket::TokenBucket;
use crate::tunnel::{Identity, Tunnel};
use crate::work::Work;
use boringtun::noise::rate_limiter::RateLimiter;

/// Ours: handshake messages a second with a good mac1 before senders must prove their address with a cookie.
/// One costs about 0.5 ms, so this is 3 % of a core.
pub const HANDSHAKES_PER_SECOND: u64 = 64;
/// 24 bits of the receiver index name the peer.
const PEERS_LIMIT: usize = 1 << 16;
const RECEIVED_SLOTS: usize = 16;
/// recvmmsg with UDP_GRO delivers up to 64 KiB.
const RECEIVED_SLOT_BYTES: usize = 65_536;
const DEVICE_SLOTS: usize = 32;
const DEVICE_SLOT_BYTES: usize = 65_536 + 64;
/// A full receive burst forwarded, or a full device burst sealed, with its 32 bytes per segment of 1,420.
const SENDS_BYTES: usize = 2_304 * 1024;
const SENDS_DESCRIPTORS: usize = 512;
const WRITES_BYTES: usize = 1_152 * 1024;
const WRITES_DESCRIPTORS: usize = 512;
const LOCALS_BYTES: usize = 256 * 1024;
const LOCALS_DESCRIPTORS: usize = 128;
/// What every link carries [RFC 8200 5]: the MTU until the host names one, and that of a hub's own packets.
const MTU_DEFAULT: usize = 1_280;
/// Control calls: keys, addresses, prefixes.
const CONTROL_BYTES: usize = 64 * 1024 + MARGIN;

/// Where inner packets go: to a TUN device, from peer to peer, or to a TCP/IP stack in here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Member,
    Hub,
    Netstack,
}

/// Everything one instance owns.
pub struct Device {
    pub kind: Kind,
    pub own: Identity,
    /// Largest packet of the TUN device, which no padding goes beyond.
    pub mtu: usize,
    /// Largest packet that crosses; no limit until the host names an MTU.
    pub limit: usize,
    pub clock: Clock,
    /// Checks mac1 and asks for cookies, for the whole device.
    pub front: RateLimiter,
    pub sources: SourceLimit,
    /// Good handshake messages in the second that began at `second_ms`.
    pub handshakes_in_second: u64,
    pub second_ms: f64,
    pub peers: Peers,
    pub routes: Routes,
    pub gateway: Gateway,
    pub staged_total: usize,
    /// Packets of all members to the host's services.
    pub local_total: TokenBucket,
    pub received: InputRing,
    pub device_reads: Option<InputRing>,
    pub sends: Sends,
    pub merge: Merge,
    pub locals: Locals,
    pub control: Region,
    /// Where the hub opens packets before it seals them again.
    pub scratch: Region,
    /// Where a packet gets its padding.
    pub padded: Region,
    /// Where the stack writes a packet.
    pub leaving: Region,
    pub stack: Option<Box<Stack>>,
    pub counters: Counters,
    pub work: Work,
    /// Handshakes completed in this call.
    pub handshakes: u32,
}

/// Raw IP packets for the host.
pub struct Locals {
    pub descriptors: Descriptors,
    pub region: Region,
    pub end: usize,
    pub count: usize,
}

impl Locals {
    /// Room for one more largest packet.
    pub fn has_room(&self) -> bool {
        self.end + PACKET_MAX <= self.region.len && self.count < self.descriptors.capacity
    }
}

impl Device {
    /// A device without peers.
    pub fn new(kind: Kind, secret: [u8; 32], peers_max: usize) -> Device {
        let clock = Clock::new();
        let own = Identity::new(secret);
        let hub = kind == Kind::Hub;
        Device {
            kind,
            front: RateLimiter::new(&own.public, HANDSHAKES_PER_SECOND),
            own,
            mtu: MTU_DEFAULT,
            limit: usize::MAX,
            clock,
            sources: SourceLimit::new(),
            handshakes_in_second: 0,
            second_ms: 0.0,
            peers: Peers::new(peers_max.clamp(1, PEERS_LIMIT)),
            routes: Routes::new(),
            gateway: Gateway::new(),
            staged_total: 0,
            local_total: TokenBucket::new(LOCAL_TOTAL_RATE, 0.0),
            received: InputRing::new(RECEIVED_SLOTS, RECEIVED_SLOT_BYTES),
            device_reads: (kind == Kind::Member).then(|| InputRing::new(DEVICE_SLOTS, DEVICE_SLOT_BYTES)),
            sends: Sends::new(SENDS_DESCRIPTORS, SENDS_BYTES),
            merge: match kind {
                Kind::Member => Merge::new(WRITES_DESCRIPTORS, WRITES_BYTES),
                _ => Merge::new(2, 0),
            },
            locals: Locals {
                descriptors: Descriptors::new(if hub { LOCALS_DESCRIPTORS } else { 1 }),
                region: Region::new(if hub { LOCALS_BYTES } else { 0 }),
                end: 0,
                count: 0,
            },
            control: Region::new(CONTROL_BYTES),
            scratch: Region::new(MARGIN + VNET_BYTES),
            padded: Region::new(MARGIN),
            leaving: Region::new(if kind == Kind::Member { 0 } else { MARGIN }),
            stack: None,
            counters: Counters([0; COUNT]),
            work: Work::new(),
            handshakes: 0,
        }
    }

    /// Starts a call: time moves on, outputs of the last call are given back.
    pub fn begin(&mut self, host_ms: f64) {
        self.clock.set(host_ms);
        self.front.reset_count();
        if self.clock.now_ms - self.second_ms >= 1000.0 {
            (self.second_ms, self.handshakes_in_second) = (self.clock.now_ms, 0);
        }
        self.handshakes = 0;
        self.sends.clear();
        self.merge.clear();
        (self.locals.end, self.locals.count) = (0, 0);
        if let Some(stack) = self.stack.as_deref_mut() {
            stack.event_count = 0;
        }
    }

    /// Handle of the new peer. Keys of small order and our own are nobody's.
    pub fn add_peer(&mut self, key: [u8; 32], preshared: Option<[u8; 32]>) -> Result<u32, Refused> {
        if is_low_order(&key) || key == *self.own.public.as_bytes() {
            return Err(Refused::BadKey);
        }
        if self.peers.find(&key).is_some() {
            return Err(Refused::Duplicate);
        }
        let at = self.peers.vacant().ok_or(Refused::Full)?;
        self.peers.put(at, Peer::new(Tunnel::new(at, key, preshared)));
        Ok(at)
    }

    /// Sets what may change in a peer's life. False when the prefixes do not fit or the peer is gone.
    pub fn set_peer(&mut self, at: u32, settings: PeerSettings) -> bool {
        let Some(peer) = self.peers.get(at) else { return false };
        if !self.routes.replace(at, &settings.prefixes) {
            return false;
        }
        peer.limit = settings.mtu;
        peer.keepalive_ms = f64::from(settings.keepalive_seconds) * 1000.0;
        if settings.endpoint.is_some() && settings.endpoint != peer.configured {
            peer.endpoint = settings.endpoint;
        }
        peer.configured = settings.endpoint;
        true
    }

    /// Forgets a peer, its keys, prefixes and staged packets.
    pub fn remove_peer(&mut self, at: u32) {
        if let Some(peer) = self.peers.take(at) {
            self.routes.remove(at);
            self.staged_total -= peer.staged_bytes;
            if let Some(stack) = self.stack.as_deref_mut() {
                stack.forget_peer(at);
            }
        }
    }
}

/// What the control plane may change about a peer.
pub struct PeerSettings {
    pub keepalive_seconds: u32,
    /// Largest packet the peer takes; usize::MAX when nobody said.
    pub mtu: usize,
    pub endpoint: Option<Endpoint>,
    pub prefixes: Vec<(Address, u8)>,
}

/// Why a peer was not added.
pub enum Refused {
    Full,
    Duplicate,
    BadKey,
}
