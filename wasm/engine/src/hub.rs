//! What the hub does with a packet it has opened: pass it to another peer, answer it, hand it to the host, or drop it.

use crate::checksum::{finish, replace, sum};
use crate::counters::Counter;
use crate::device::Device;
use crate::ip::{source_routed, Address, Ip, ICMP, ICMP6, TCP, UDP};
use crate::memory::Descriptor;
use crate::mss::clamp;
use crate::peers::{LOCAL_RATE, LOCAL_TOTAL_RATE};
use crate::too_big::is_whole;

/// TTL and hop limit of our own answers [RFC 1340].
const OWN_HOPS: u8 = 64;

/// The hub's own addresses and what it serves there.
pub struct Gateway {
    pub addresses: Vec<Address>,
    pub udp_ports: Vec<u16>,
}

impl Gateway {
    /// No address.
    pub fn new() -> Gateway {
        Gateway { addresses: Vec::new(), udp_ports: Vec::new() }
    }
}

impl Device {
    /// One packet from peer `from`, whose source address is that peer's, with its padding. It leaves with no more padding
    /// than it came with, which was within the sender's MTU, and with none beyond that of the one it is for.
    #[inline]
    pub fn forward(&mut self, from: u32, ip: Ip, opened: &mut [u8]) {
        let destination = ip.destination(opened);
        if destination.forbidden() || ip.source(opened).forbidden() || source_routed(opened, &ip) {
            return self.counters.add(Counter::ForbiddenAddress);
        }
        if self.gateway.addresses.contains(&destination) {
            return self.serve(from, ip, opened);
        }
        match self.routes.find(destination) {
            None => self.counters.add(Counter::NoRoute),
            Some(to) if to == from => self.counters.add(Counter::Hairpin),
            Some(to) if count_hop(opened, &ip) => self.pass(from, to, &ip, opened),
            Some(_) => self.counters.add(Counter::ExpiredHops),
        }
    }

    /// From one peer to another, within what both carry.
    #[inline]
    fn pass(&mut self, from: u32, to: u32, ip: &Ip, opened: &mut [u8]) {
        let arrived = opened.len();
        let packet = &mut opened[..ip.total];
        let limit = self.limit_of(to);
        if ip.total > limit && is_whole(packet, ip) {
            return self.refuse_size(from, packet, ip, limit);
        }
        clamp(packet, ip, limit.min(self.limit_of(from)));
        self.seal(to, packet, arrived.min(limit));
    }

    #[inline]
    fn limit_of(&mut self, peer: u32) -> usize {
        self.peers.get(peer).map_or(usize::MAX, |peer| peer.limit)
    }

    /// A packet to one of our own addresses.
    #[inline(never)]
    fn serve(&mut self, from: u32, ip: Ip, opened: &mut [u8]) {
        let (arrived, packet) = (opened.len(), &mut opened[..ip.total]);
        if !ip.fragment && is_echo_request(packet, &ip) {
            answer_echo(packet, &ip);
            self.counters.add(Counter::EchoAnswered);
            self.seal(from, packet, arrived);
        } else if !ip.fragment && self.is_served_tcp(packet, &ip) {
            self.with_stack(|stack, device| stack.receive(device, from, packet, &ip));
        } else if !ip.fragment && self.is_served_udp(packet, &ip) {
            if self.may_deliver(from) {
                self.deliver(from, packet);
            } else {
                self.counters.add(Counter::LocalLimited);
            }
        } else {
            self.counters.add(Counter::NotServed);
        }
    }

    /// A member that floods uses up its own share first, so it does not shut the others out.
    fn may_deliver(&mut self, from: u32) -> bool {
        let now_ms = self.clock.now_ms;
        let own = self.peers.get(from).is_some_and(|peer| peer.local.take(LOCAL_RATE, now_ms));
        own && self.local_total.take(LOCAL_TOTAL_RATE, now_ms)
    }

    fn is_served_tcp(&self, packet: &[u8], ip: &Ip) -> bool {
        let Some(stack) = self.stack.as_deref().filter(|_| ip.protocol == TCP) else { return false };
        port_of(packet, ip).is_some_and(|port| stack.listening.contains(&port))
    }

    fn is_served_udp(&self, packet: &[u8], ip: &Ip) -> bool {
        ip.protocol == UDP && port_of(packet, ip).is_some_and(|port| self.gateway.udp_ports.contains(&port))
    }

    /// Copies a packet to the host's output; `has_room()` holds.
    fn deliver(&mut self, peer: u32, packet: &[u8]) {
        let locals = &mut self.locals;
        locals.region.slice(locals.end, packet.len()).copy_from_slice(packet);
        let offset = locals.region.offset() + locals.end as u32;
        let bytes = packet.len() as u32;
        locals.descriptors.set(locals.count, Descriptor { offset, bytes, peer, ..Descriptor::EMPTY });
        locals.count += 1;
        locals.end += packet.len();
    }

    /// Routes a packet the host made; it lies in the control region.
    pub fn route_local(&mut self, bytes: usize) {
        let packet = self.control.slice(0, bytes.min(self.control.len));
        let Some(ip) = Ip::parse(packet) else { return self.counters.add(Counter::BadPacket) };
        match self.routes.find(ip.destination(packet)) {
            Some(to) => self.seal(to, &packet[..ip.total], self.mtu),
            None => self.counters.add(Counter::NoRoute),
        }
    }
}

/// The destination port of UDP or TCP.
fn port_of(packet: &[u8], ip: &Ip) -> Option<u16> {
    let ports = packet.get(ip.header..ip.header + 8)?;
    Some(u16::from_be_bytes([ports[2], ports[3]]))
}

/// Decrements TTL or hop limit; false when it is used up.
#[inline]
fn count_hop(packet: &mut [u8], ip: &Ip) -> bool {
    if ip.v6 {
        let alive = packet[7] > 1;
        packet[7] = packet[7].wrapping_sub(1);
        return alive;
    }
    if packet[8] <= 1 {
        return false;
    }
    let old = [packet[8], packet[9]];
    packet[8] -= 1;
    let checksum = replace([packet[10], packet[11]], old, [packet[8], packet[9]]);
    packet[10..12].copy_from_slice(&checksum);
    true
}

/// [RFC 792] type 8, [RFC 4443 4.1] type 128.
fn is_echo_request(packet: &[u8], ip: &Ip) -> bool {
    let request = match (ip.v6, ip.protocol) {
        (false, ICMP) => 8,
        (true, ICMP6) => 128,
        _ => return false,
    };
    packet.len() >= ip.header + 8 && packet[ip.header] == request && packet[ip.header + 1] == 0
}

/// Turns a request into its reply in place; a wrong ICMP checksum stays wrong.
fn answer_echo(packet: &mut [u8], ip: &Ip) {
    let h = ip.header;
    let (first, second, half) = if ip.v6 { (8, 24, 16) } else { (12, 16, 4) };
    for at in 0..half {
        packet.swap(first + at, second + at);
    }
    let reply = if ip.v6 { 129 } else { 0 };
    let checksum = replace([packet[h + 2], packet[h + 3]], [packet[h], 0], [reply, 0]);
    packet[h] = reply;
    packet[h + 2..h + 4].copy_from_slice(&checksum);
    if ip.v6 {
        packet[7] = OWN_HOPS;
    } else {
        packet[8] = OWN_HOPS;
        packet[10..12].fill(0);
        let checksum = finish(sum(&packet[..h], 0));
        packet[10..12].copy_from_slice(&checksum);
    }
}
