//! Packets larger than the tunnel carries: their sender is told the size that fits, in the manner of a router
//! [RFC 1191 4] [RFC 8201 4]. An IPv4 packet that may be split is passed on: its datagram is split in its place.

use crate::checksum::{finish, pseudo, sum};
use crate::counters::Counter;
use crate::device::{Device, Kind};
use crate::ip::{Address, Ip, ICMP, ICMP6};
use crate::token_bucket::Rate;

/// Ours: messages a second for packets from or to one peer, and at once. A sender needs one for each of its ways.
pub const TOO_BIG_RATE: Rate = Rate { per_second: 20.0, burst: 50.0 };
/// A message is no larger than what every link carries [RFC 1812 4.3.2.3] [RFC 4443 2.4].
const MESSAGE_V4: usize = 576;
const MESSAGE_V6: usize = 1_280;
const ICMP_HEADER: usize = 8;
const OWN_HOPS: u8 = 64;

/// A message on its way to the sender of a packet.
pub struct Message {
    bytes: [u8; MESSAGE_V6],
    len: usize,
}

/// True for a packet that can only be dropped when it is too big.
#[inline]
pub fn is_whole(packet: &[u8], ip: &Ip) -> bool {
    ip.v6 || packet[6] & 0x40 != 0
}

impl Device {
    /// Drops a packet that does not fit and tells its sender so, at a bounded rate. `peer` is the one it came from (hub) or
    /// would go to (member).
    #[cold]
    pub fn refuse_size(&mut self, peer: u32, packet: &[u8], ip: &Ip, mtu: usize) {
        self.counters.add(Counter::TooBig);
        let now_ms = self.clock.now_ms;
        let told = self.peers.get(peer).is_some_and(|peer| peer.too_big.take(TOO_BIG_RATE, now_ms));
        if !told || !is_answerable(packet, ip) {
            return;
        }
        let destination = ip.destination(packet);
        // A hub has addresses of its own. A member's are the kernel's, which would take them for forged: its packets are
        // answered in the name of their destination, as if from further along the way.
        let own = self.gateway.addresses.iter().find(|own| own.v6 == ip.v6).copied();
        let Some(source) = (if self.kind == Kind::Member { Some(destination) } else { own }) else { return };
        let message = Message::new(packet, ip, mtu, source);
        match self.kind {
            Kind::Member => {
                let space = self.merge.space(message.len);
                space[..message.len].copy_from_slice(message.bytes());
                if let Some(ip) = Ip::parse(message.bytes()) {
                    self.merge.commit(peer, ip);
                }
            }
            Kind::Hub => self.seal(peer, message.bytes(), message.len),
            // Its own stack is told its MTU before it makes a packet.
            Kind::Netstack => {}
        }
    }
}

/// No error about an error, a later part, or a packet from or to many [RFC 1122 3.2.2] [RFC 4443 2.4]. The first part of an
/// IPv6 datagram is answered: its sender alone can make its parts smaller.
fn is_answerable(packet: &[u8], ip: &Ip) -> bool {
    let kind = packet.get(ip.header).copied().unwrap_or(0);
    let error = match (ip.v6, ip.protocol) {
        (false, ICMP) => !matches!(kind, 0 | 8),
        (true, ICMP6) => kind < 128,
        _ => false,
    };
    let offset = if ip.v6 { ip.fragment.then(|| packet.get(42..44)).flatten() } else { packet.get(6..8) };
    let mask = if ip.v6 { 0xfff8 } else { 0x1fff };
    let later_part = offset.is_some_and(|at| u16::from_be_bytes([at[0], at[1]]) & mask != 0);
    !error && !later_part && !ip.source(packet).forbidden() && !ip.destination(packet).forbidden()
}

impl Message {
    /// Packet too big, or destination unreachable because splitting is needed, with the start of the packet behind it.
    fn new(packet: &[u8], ip: &Ip, mtu: usize, from: Address) -> Message {
        let (header, most) = if ip.v6 { (40, MESSAGE_V6) } else { (20, MESSAGE_V4) };
        let quoted = ip.total.min(most - header - ICMP_HEADER);
        let mut message = Message { bytes: [0; MESSAGE_V6], len: header + ICMP_HEADER + quoted };
        let (head, body) = message.bytes[..message.len].split_at_mut(header);
        body[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
        let size = (mtu as u32).to_be_bytes();
        if ip.v6 {
            head[0] = 0x60;
            head[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
            (head[6], head[7]) = (ICMP6, OWN_HOPS);
            head[8..24].copy_from_slice(&from.bits.to_be_bytes());
            head[24..40].copy_from_slice(&packet[8..24]);
            body[0] = 2;
            body[4..8].copy_from_slice(&size);
            let checksum = finish(sum(body, pseudo(&head[8..40], ICMP6, body.len())));
            body[2..4].copy_from_slice(&checksum);
        } else {
            head[0] = 0x45;
            let total = (header + body.len()) as u16;
            head[2..4].copy_from_slice(&total.to_be_bytes());
            (head[8], head[9]) = (OWN_HOPS, ICMP);
            head[12..16].copy_from_slice(&(from.bits as u32).to_be_bytes());
            head[16..20].copy_from_slice(&packet[12..16]);
            let checksum = finish(sum(head, 0));
            head[10..12].copy_from_slice(&checksum);
            (body[0], body[1]) = (3, 4);
            body[6..8].copy_from_slice(&size[2..]);
            let checksum = finish(sum(body, 0));
            body[2..4].copy_from_slice(&checksum);
        }
        message
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
