//! Packets from the TUN device: a super-packet becomes segments, unfinished checksums are finished, all are sealed.
//! Segments are made in place: the headers of segment k overlay the end of segment k - 1, which is sealed already.

use crate::checksum::{finish, pseudo, sum};
use crate::counters::Counter;
use crate::device::Device;
use crate::ip::{Ip, TCP, UDP};
use crate::memory::VNET_BYTES;
use crate::mss::clamp;
use crate::outbound::padded;
use crate::too_big::is_whole;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The ECN bit of gso_type says that CWR is set on the first segment only, as is done here.
const GSO_ECN: u8 = 0x80;
const FLAG_FIN: u8 = 1;
const FLAG_PSH: u8 = 8;
const FLAG_CWR: u8 = 128;
/// Ours: IP and transport headers of a super-packet; 40 + 60 with room for extension headers.
const HEADERS_MAX: usize = 160;
/// WireGuard's header and tag.
pub const OVERHEAD: usize = 32;
/// A run holds at least this many bytes unless its datagrams are larger.
const RUN_BYTES: usize = 65_000;
/// Ours: a super-packet that leaves as one run of 44 segments of the usual size.
pub const GSO_BYTES_MAX: usize = 60_244;

/// The fields of a virtio_net_hdr that matter [virtio 1.2, 5.1.6].
pub struct Vnet {
    flags: u8,
    gso: u8,
    gso_bytes: usize,
    checksum_start: usize,
    checksum_field: usize,
}

/// How a super-packet is cut.
struct Plan {
    ip: Ip,
    protocol: u8,
    l4: usize,
    headers: usize,
    gso_bytes: usize,
}

impl Device {
    /// One read of the TUN device; false when the outputs have no room for all of it.
    pub fn device_slot(&mut self, slot: usize) -> bool {
        let Some(ring) = self.device_reads else { return true };
        let (_, data) = ring.slot(slot);
        if data.len() < VNET_BYTES {
            self.counters.add(Counter::BadPacket);
            return true;
        }
        let (head, packet) = data.split_at_mut(VNET_BYTES);
        let vnet = Vnet::parse(head);
        let Some(ip) = Ip::parse(packet) else {
            self.counters.add(Counter::BadPacket);
            return true;
        };
        let Some(peer) = self.routes.find(ip.destination(packet)) else {
            self.counters.add(Counter::NoRoute);
            return true;
        };
        let packet = &mut packet[..ip.total];
        if self.peers.get(peer).and_then(|peer| peer.endpoint).is_some_and(|own| own.is_target_of(&ip, packet)) {
            self.counters.add(Counter::Looped);
            return true;
        }
        if vnet.gso == GSO_NONE {
            self.single(peer, &vnet, ip, packet)
        } else {
            self.super_packet(peer, &vnet, ip, packet)
        }
    }

    fn single(&mut self, peer: u32, vnet: &Vnet, ip: Ip, packet: &mut [u8]) -> bool {
        if !self.has_room() {
            return false;
        }
        if vnet.flags & NEEDS_CSUM != 0 && !complete_checksum(vnet, packet) {
            self.counters.add(Counter::BadPacket);
            return true;
        }
        if ip.total > self.limit && is_whole(packet, &ip) {
            self.refuse_size(peer, packet, &ip, self.limit);
            return true;
        }
        clamp(packet, &ip, self.limit);
        self.seal(peer, packet, self.mtu);
        true
    }

    /// Cuts and seals; false when the outputs have no room for all of it.
    pub fn super_packet(&mut self, peer: u32, vnet: &Vnet, ip: Ip, packet: &mut [u8]) -> bool {
        let Some(plan) = Plan::parse(vnet, ip, packet) else {
            self.counters.add(Counter::BadPacket);
            return true;
        };
        if plan.headers + plan.gso_bytes > self.limit && is_whole(packet, &ip) {
            if !self.has_room() {
                return false;
            }
            self.refuse_size(peer, packet, &ip, self.limit);
            return true;
        }
        let stride = padded(plan.headers + plan.gso_bytes, self.mtu) + OVERHEAD;
        let segments = (packet.len() - plan.headers).div_ceil(plan.gso_bytes);
        let runs = segments.div_ceil((RUN_BYTES / stride).clamp(1, 64)) + 2;
        if segments * stride > self.sends.capacity() || runs > self.sends.descriptors.capacity {
            self.counters.add(Counter::BadPacket);
            return true;
        }
        if !self.sends.has_room(segments * stride, runs) {
            return false;
        }
        self.cut(peer, &plan, packet);
        true
    }

    fn cut(&mut self, peer: u32, plan: &Plan, packet: &mut [u8]) {
        let mut template = [0; HEADERS_MAX];
        template[..plan.headers].copy_from_slice(&packet[..plan.headers]);
        let payload = packet.len() - plan.headers;
        let mut at = 0;
        while at < payload {
            let bytes = plan.gso_bytes.min(payload - at);
            let segment = &mut packet[at..at + plan.headers + bytes];
            segment[..plan.headers].copy_from_slice(&template[..plan.headers]);
            plan.patch(segment, at, at + bytes == payload);
            self.seal(peer, segment, self.mtu);
            at += bytes;
        }
    }
}

impl Vnet {
    /// A super-packet of the stack: TCP behind the plain IP header.
    pub fn of_tcp(ip: &Ip, gso_bytes: usize) -> Vnet {
        let gso = if ip.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        Vnet { flags: NEEDS_CSUM, gso, gso_bytes, checksum_start: ip.header, checksum_field: 16 }
    }

    fn parse(head: &[u8]) -> Vnet {
        let word = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        Vnet {
            flags: head[0],
            gso: head[1] & !GSO_ECN,
            gso_bytes: word(4),
            checksum_start: word(6),
            checksum_field: word(8),
        }
    }
}

/// Checksum offload: sums from the start to the end, the field holds the pseudo-header sum. False when out of bounds.
fn complete_checksum(vnet: &Vnet, packet: &mut [u8]) -> bool {
    let field = vnet.checksum_start + vnet.checksum_field;
    if field + 2 > packet.len() {
        return false;
    }
    let value = finish(sum(&packet[vnet.checksum_start..], 0));
    // UDP sends 0 as all ones; 0 would mean "no checksum" [RFC 768].
    let value = if value == [0, 0] && vnet.checksum_field == 6 { [0xff, 0xff] } else { value };
    packet[field..field + 2].copy_from_slice(&value);
    true
}

impl Plan {
    fn parse(vnet: &Vnet, ip: Ip, packet: &[u8]) -> Option<Plan> {
        let protocol = match (vnet.gso, ip.v6) {
            (GSO_TCPV4, false) | (GSO_TCPV6, true) => TCP,
            (GSO_UDP_L4, _) => UDP,
            _ => return None,
        };
        let l4 = vnet.checksum_start;
        let minimum = if protocol == TCP { 20 } else { 8 };
        if vnet.gso_bytes == 0 || l4 < ip.header || l4 + minimum > packet.len() {
            return None;
        }
        let l4_header = if protocol == TCP { usize::from(packet[l4 + 12] >> 4) * 4 } else { 8 };
        let headers = l4 + l4_header;
        let sane = l4_header >= minimum && headers <= HEADERS_MAX && headers < packet.len();
        sane.then_some(Plan { ip, protocol, l4, headers, gso_bytes: vnet.gso_bytes })
    }

    /// Makes the copied headers those of the segment whose payload starts at `at`.
    #[inline]
    fn patch(&self, segment: &mut [u8], at: usize, last: bool) {
        let bytes = segment.len();
        if self.ip.v6 {
            segment[4..6].copy_from_slice(&((bytes - 40) as u16).to_be_bytes());
        } else {
            self.patch_v4(segment, (at / self.gso_bytes) as u16);
        }
        let l4_bytes = bytes - self.l4;
        let start = pseudo(self.ip.addresses(segment), self.protocol, l4_bytes);
        let l4 = &mut segment[self.l4..];
        let field = if self.protocol == TCP { patch_tcp(l4, at, last) } else { patch_udp(l4) };
        l4[field..field + 2].fill(0);
        let value = finish(sum(l4, start));
        let value = if value == [0, 0] && self.protocol == UDP { [0xff, 0xff] } else { value };
        l4[field..field + 2].copy_from_slice(&value);
    }

    #[inline]
    fn patch_v4(&self, segment: &mut [u8], number: u16) {
        let total = segment.len() as u16;
        let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(number);
        segment[2..4].copy_from_slice(&total.to_be_bytes());
        segment[4..6].copy_from_slice(&id.to_be_bytes());
        segment[10..12].fill(0);
        let checksum = finish(sum(&segment[..self.ip.header], 0));
        segment[10..12].copy_from_slice(&checksum);
    }
}

/// Sequence number and flags; returns where the checksum is.
#[inline]
fn patch_tcp(l4: &mut [u8], at: usize, last: bool) -> usize {
    let sequence = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]).wrapping_add(at as u32);
    l4[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        l4[13] &= !(FLAG_FIN | FLAG_PSH);
    }
    if at > 0 {
        l4[13] &= !FLAG_CWR;
    }
    16
}

/// Length; returns where the checksum is.
#[inline]
fn patch_udp(l4: &mut [u8]) -> usize {
    let length = l4.len() as u16;
    l4[4..6].copy_from_slice(&length.to_be_bytes());
    6
}
