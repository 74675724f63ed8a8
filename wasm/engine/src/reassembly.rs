//! Packets that came in parts [RFC 791 3.2] [RFC 8200 4.5], put together for the stack. What is held is bounded, in number
//! and time; parts that overlap end their packet [RFC 5722].

use crate::checksum::{finish, sum};
use crate::ip::Ip;
use crate::memory::PACKET_MAX;

/// Ours: packets that wait for parts, and how long; at most 2.3 MiB.
const WAITING: usize = 16;
const WAIT_MS: f64 = 15_000.0;
/// Parts begin at multiples of this.
const BLOCK: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;

/// What became of a part.
pub enum Added {
    /// Others are missing.
    Kept,
    /// It fits nowhere, and what it belonged to is given up.
    Wrong,
    Whole(Vec<u8>),
}

/// Packets that wait for parts, the oldest first.
pub struct Reassembly(Vec<Waiting>);

struct Waiting {
    peer: u32,
    key: Key,
    since_ms: f64,
    /// That of the first part, without options or extensions.
    header: Vec<u8>,
    /// Behind the header; what has not come is zero.
    payload: Vec<u8>,
    /// Which blocks have come.
    come: Vec<bool>,
    /// Known from the last part.
    total: Option<usize>,
}

/// What the parts of a packet have in common: source, destination, identification and, in IPv4, protocol.
#[derive(PartialEq)]
struct Key([u8; 37]);

/// Where a part belongs.
struct Part<'a> {
    key: Key,
    at: usize,
    is_last: bool,
    /// The protocol behind the header.
    next: u8,
    payload: &'a [u8],
}

impl Reassembly {
    /// Nothing waits.
    pub fn new() -> Reassembly {
        Reassembly(Vec::new())
    }

    /// Takes one part of a peer's packet.
    pub fn add(&mut self, peer: u32, packet: &[u8], ip: &Ip, now_ms: f64) -> Added {
        self.0.retain(|waiting| now_ms - waiting.since_ms < WAIT_MS);
        let Some(part) = Part::parse(packet, ip) else { return Added::Wrong };
        let known = self.0.iter().position(|waiting| waiting.peer == peer && waiting.key == part.key);
        let at = known.unwrap_or_else(|| self.begin(peer, &part, now_ms));
        let waiting = &mut self.0[at];
        if !waiting.take(&part, packet, ip) {
            self.0.remove(at);
            return Added::Wrong;
        }
        match waiting.is_whole() {
            true => Added::Whole(self.0.remove(at).packet()),
            false => Added::Kept,
        }
    }

    /// Forgets what a peer has begun.
    pub fn forget_peer(&mut self, peer: u32) {
        self.0.retain(|waiting| waiting.peer != peer);
    }

    /// A new one at the end. When there is no room, the peer's own oldest goes, or that of all for a peer that has none.
    fn begin(&mut self, peer: u32, part: &Part, now_ms: f64) -> usize {
        if self.0.len() == WAITING {
            self.0.remove(self.0.iter().position(|waiting| waiting.peer == peer).unwrap_or(0));
        }
        let (header, payload, come) = (Vec::new(), Vec::new(), Vec::new());
        self.0.push(Waiting { peer, key: Key(part.key.0), since_ms: now_ms, header, payload, come, total: None });
        self.0.len() - 1
    }
}

impl Part<'_> {
    fn parse<'a>(packet: &'a [u8], ip: &Ip) -> Option<Part<'a>> {
        let mut key = Key([0; 37]);
        let ends = ip.addresses(packet);
        key.0[..ends.len()].copy_from_slice(ends);
        let (id, place, next, start) = if ip.v6 {
            let head = packet[..ip.total].get(IPV6_HEADER..IPV6_HEADER + FRAGMENT_HEADER)?;
            (&head[4..8], [head[2], head[3] & !7 | head[3] & 1], head[0], IPV6_HEADER + FRAGMENT_HEADER)
        } else {
            key.0[36] = packet[9];
            let offset = u16::from_be_bytes([packet[6] & 0x1f, packet[7]]) << 3;
            let place = offset | u16::from(packet[6] >> 5 & 1);
            (&packet[4..6], place.to_be_bytes(), packet[9], ip.header)
        };
        key.0[32..32 + id.len()].copy_from_slice(id);
        let place = usize::from(u16::from_be_bytes(place));
        let (at, is_last, payload) = (place & !7, place & 1 == 0, &packet[start..ip.total]);
        let header = if ip.v6 { 0 } else { IPV4_HEADER };
        let fits = header + at + payload.len() <= PACKET_MAX && !payload.is_empty();
        (fits && (is_last || payload.len() % BLOCK == 0)).then_some(Part { key, at, is_last, next, payload })
    }
}

impl Waiting {
    /// False when the part contradicts another.
    fn take(&mut self, part: &Part, packet: &[u8], ip: &Ip) -> bool {
        let end = part.at + part.payload.len();
        let too_long = self.total.is_some_and(|total| end > total || part.is_last);
        if too_long || part.is_last && end < self.payload.len() {
            return false;
        }
        if end > self.payload.len() {
            self.payload.resize(end, 0);
            self.come.resize(end.div_ceil(BLOCK), false);
        }
        let blocks = &mut self.come[part.at / BLOCK..end.div_ceil(BLOCK)];
        if blocks.contains(&true) {
            return false;
        }
        blocks.fill(true);
        self.payload[part.at..end].copy_from_slice(part.payload);
        if part.is_last {
            self.total = Some(end);
        }
        if part.at == 0 {
            self.header = whole_header(packet, ip, part.next);
        }
        true
    }

    fn is_whole(&self) -> bool {
        self.total == Some(self.payload.len()) && !self.come.contains(&false)
    }

    fn packet(mut self) -> Vec<u8> {
        let (v6, bytes) = (self.header[0] >> 4 == 6, self.payload.len());
        let total = if v6 { bytes } else { IPV4_HEADER + bytes };
        let at = if v6 { 4 } else { 2 };
        self.header[at..at + 2].copy_from_slice(&(total as u16).to_be_bytes());
        if !v6 {
            let checksum = finish(sum(&self.header, 0));
            self.header[10..12].copy_from_slice(&checksum);
        }
        self.header.append(&mut self.payload);
        self.header
    }
}

/// A plain header with the addresses of this one, its checksum empty.
fn whole_header(packet: &[u8], ip: &Ip, next: u8) -> Vec<u8> {
    let mut header = packet[..if ip.v6 { IPV6_HEADER } else { IPV4_HEADER }].to_vec();
    if ip.v6 {
        header[6] = next;
    } else {
        header[0] = 0x45;
        header[6..8].fill(0);
        header[10..12].fill(0);
    }
    header
}
