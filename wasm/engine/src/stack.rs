//! The TCP/IP stack behind the device's own addresses: smoltcp, fed with packets that a peer has proved to have sent.
//!
//! In: `inbound` -> `receive` -> smoltcp. Out: smoltcp -> `stack_link` -> `segment` cuts and seals. Both without a queue: a
//! packet is worked through where it lies. The host learns from `events` which of its sockets can do more than before.
//! Every socket has buffers of a fixed size, and their number is bounded, in all and for each peer.

use crate::checksum::{fold, pseudo, sum};
use crate::counters::Counter;
use crate::device::{Device, Kind};
use crate::ip::{Address, Ip, ICMP, ICMP6, TCP, UDP};
use crate::memory::{Descriptor, Descriptors};
use crate::reassembly::{Added, Reassembly};
use crate::stack_link::Link;
use crate::stack_entry::{Entry, Protocol, State, HALF_OPEN};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

const FLAG_SYN: u8 = 2;
const FLAG_RST: u8 = 4;
const FLAG_ACK: u8 = 16;
/// The deadline of a stack that waits for nothing but packets.
pub const NEVER: u32 = u32::MAX;

/// What a stack may hold; all ours.
#[derive(Clone, Copy)]
pub struct Limits {
    pub sockets: usize,
    /// Connections that one peer opened.
    pub of_peer: usize,
    /// Those of one peer whose handshake is under way.
    pub half_open: usize,
    /// Bytes of a connection's buffers.
    pub receive_bytes: usize,
    pub send_bytes: usize,
}

impl Limits {
    /// A hub answers short questions of many: at most 9 MiB.
    const HUB: Limits =
        Limits { sockets: 256, of_peer: 16, half_open: 8, receive_bytes: 4 * 1024, send_bytes: 32 * 1024 };
    /// A tunnel without a device carries what a person does: 50 Mbit/s over 20 ms each, at most 32 MiB.
    const NETSTACK: Limits =
        Limits { sockets: 128, of_peer: 64, half_open: 64, receive_bytes: 128 * 1024, send_bytes: 128 * 1024 };
}

/// smoltcp, its sockets, and what the host knows of them.
pub struct Stack {
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub entries: Vec<Entry>,
    pub listening: Vec<u16>,
    /// Of the connection that the host opened last.
    pub last_port: u16,
    parts: Reassembly,
    pub limits: Limits,
    /// What the host is told after this call.
    pub events: Descriptors,
    pub event_count: usize,
    /// Something happened that smoltcp has not seen.
    pub touched: bool,
    /// When smoltcp wants to be asked again, by the device's clock.
    pub deadline_ms: f64,
    pub next_id: u32,
}

impl Stack {
    /// Without sockets.
    pub fn new(device: &mut Device) -> Box<Stack> {
        let limits = if device.kind == Kind::Hub { Limits::HUB } else { Limits::NETSTACK };
        let mut stack = Stack {
            interface: new_interface(device),
            sockets: SocketSet::new(Vec::new()),
            entries: Vec::new(),
            listening: Vec::new(),
            last_port: random() as u16,
            parts: Reassembly::new(),
            limits,
            events: Descriptors::new(limits.sockets),
            event_count: 0,
            touched: false,
            deadline_ms: f64::INFINITY,
            next_id: 1,
        };
        stack.set_addresses(&device.gateway.addresses);
        Box::new(stack)
    }

    /// Takes over another MTU of the device.
    pub fn renew(&mut self, device: &mut Device) {
        self.interface = new_interface(device);
        self.set_addresses(&device.gateway.addresses);
    }

    /// Own addresses, for packets whose source smoltcp chooses. Connections of an address that is gone end.
    pub fn set_addresses(&mut self, addresses: &[Address]) {
        self.interface.update_ip_addrs(|own| {
            own.clear();
            for address in addresses {
                let bits = if address.v6 { 128 } else { 32 };
                let _ = own.push(IpCidr::new(to_ip(*address), bits));
            }
        });
        for entry in self.entries.iter().filter(|entry| entry.protocol == Protocol::Tcp) {
            let socket = self.sockets.get_mut::<tcp::Socket>(entry.handle);
            let gone = socket.local_endpoint().is_some_and(|own| !addresses.iter().any(|a| to_ip(*a) == own.addr));
            if gone {
                socket.abort();
            }
        }
        self.touched = true;
    }

    /// Ends the connections that a peer opened: its handle, and with it their places, may be another's next.
    pub fn forget_peer(&mut self, peer: u32) {
        for entry in self.entries.iter().filter(|entry| entry.peer == peer) {
            self.sockets.get_mut::<tcp::Socket>(entry.handle).abort();
        }
        self.parts.forget_peer(peer);
        self.touched = true;
    }

    /// One packet of a peer to one of our addresses.
    #[inline(never)]
    pub fn receive(&mut self, device: &mut Device, peer: u32, packet: &[u8], ip: &Ip) {
        let flags = match ip.protocol {
            TCP => match self.admit(device, peer, packet, ip) {
                Some(flags) => flags,
                None => return,
            },
            UDP | ICMP | ICMP6 => 0,
            _ => return device.counters.add(Counter::NotServed),
        };
        let now = moment(device.clock.now_ms);
        self.interface.poll_ingress_single(now, &mut Link::new(device, packet), &mut self.sockets);
        self.touched = true;
        if flags & FLAG_RST != 0 {
            self.note_reset();
        }
        if flags & FLAG_RST != 0 || flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN {
            self.forget_idle();
        }
    }

    /// A part of a packet; with the last one the whole is worked through.
    #[cold]
    #[inline(never)]
    fn receive_part(&mut self, device: &mut Device, peer: u32, packet: &[u8], ip: &Ip) {
        match self.parts.add(peer, packet, ip, device.clock.now_ms) {
            Added::Kept => {}
            Added::Wrong => device.counters.add(Counter::BadPacket),
            Added::Whole(whole) => {
                if let Some(ip) = Ip::parse(&whole) {
                    self.receive(device, peer, &whole, &ip);
                }
            }
        }
    }

    /// A segment's flags, when smoltcp shall see it; a SYN to a port that is listened to finds a socket.
    fn admit(&mut self, device: &mut Device, peer: u32, packet: &[u8], ip: &Ip) -> Option<u8> {
        let segment = &packet[ip.header..ip.total];
        if segment.len() < 20 || fold(sum(segment, pseudo(ip.addresses(packet), TCP, segment.len()))) != 0xffff {
            device.counters.add(Counter::BadPacket);
            return None;
        }
        let flags = segment[13];
        if flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) == FLAG_SYN {
            let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
            let local = IpEndpoint::new(to_ip(ip.destination(packet)), port(2));
            let remote = IpEndpoint::new(to_ip(ip.source(packet)), port(0));
            if !self.make_room(peer, local, remote) {
                device.counters.add(Counter::ConnectionsLimited);
                return None;
            }
        }
        Some(flags)
    }

    /// A socket for a new connection to a port that is listened to. False when the peer, or all together, have too many: the
    /// SYN is lost, and its sender tries again.
    fn make_room(&mut self, peer: u32, local: IpEndpoint, remote: IpEndpoint) -> bool {
        if !self.listening.contains(&local.port) || self.is_connected(local, remote) {
            return true;
        }
        let of_peer = self.entries.iter().filter(|entry| entry.peer == peer);
        let (all, half) = of_peer.fold((0, 0), |(all, half), entry| (all + 1, half + usize::from(entry.is_half_open())));
        // No more than are left for others: it takes 20 peers that hold all they can to leave no place at a hub.
        let most = self.limits.of_peer.min(self.limits.sockets - self.entries.len());
        if all >= most || half >= self.limits.half_open {
            return false;
        }
        let mut socket = self.new_tcp();
        socket.set_timeout(Some(HALF_OPEN));
        let _ = socket.listen(IpListenEndpoint { addr: Some(local.addr), port: local.port });
        let id = self.add(socket, Protocol::Tcp, peer);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.port = local.port;
        }
        true
    }

    fn is_connected(&mut self, local: IpEndpoint, remote: IpEndpoint) -> bool {
        let Stack { entries, sockets, .. } = self;
        entries.iter().filter(|entry| entry.protocol == Protocol::Tcp).any(|entry| {
            let socket = sockets.get::<tcp::Socket>(entry.handle);
            socket.local_endpoint() == Some(local) && socket.remote_endpoint() == Some(remote)
        })
    }

    /// Connections that the segment before this moment has ended.
    fn note_reset(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.protocol == Protocol::Tcp) {
            let state = self.sockets.get::<tcp::Socket>(entry.handle).state();
            entry.was_reset |= matches!(state, tcp::State::Closed) && entry.state != State::Done;
        }
    }

    /// Sockets that listen still, or again: their SYN was none, or was taken back.
    fn forget_idle(&mut self) {
        let Stack { entries, sockets, .. } = self;
        entries.retain(|entry| {
            let listens = entry.protocol == Protocol::Tcp
                && sockets.get::<tcp::Socket>(entry.handle).state() == tcp::State::Listen;
            if listens {
                sockets.remove(entry.handle);
            }
            !listens
        });
    }

    /// Lets smoltcp send what it has; false when the outputs are full first.
    pub fn run(&mut self, device: &mut Device) -> bool {
        let now_ms = device.clock.now_ms;
        if !self.touched && now_ms < self.deadline_ms {
            return true;
        }
        let now = moment(now_ms);
        loop {
            let mut link = Link::new(device, &[]);
            let sent = self.interface.poll_egress(now, &mut link, &mut self.sockets);
            if link.is_full {
                self.touched = true;
                return false;
            }
            if sent == PollResult::None {
                break;
            }
        }
        self.touched = false;
        self.look(now_ms);
        true
    }

    /// Tells the host what changed, and forgets sockets that are done.
    fn look(&mut self, now_ms: f64) {
        let Stack { entries, sockets, events, event_count, .. } = self;
        entries.retain_mut(|entry| {
            let news = entry.look(sockets, now_ms);
            if news != 0 && *event_count < events.capacity {
                entry.told |= news;
                let (address_bytes, address) = entry.remote(sockets);
                let event = Descriptor {
                    offset: entry.id,
                    bytes: news,
                    segment: u32::from(entry.port),
                    peer: entry.peer,
                    address_bytes,
                    address,
                    ..Descriptor::EMPTY
                };
                events.set(*event_count, event);
                *event_count += 1;
            }
            let done = entry.is_done(sockets);
            if done {
                sockets.remove(entry.handle);
            }
            !done
        });
        let wanted = self.interface.poll_at(moment(now_ms), &self.sockets);
        let wanted_ms = wanted.map_or(f64::INFINITY, |at| at.total_micros() as f64 / 1000.0);
        self.deadline_ms = self.entries.iter().filter_map(Entry::orphan_ends_ms).fold(wanted_ms, f64::min);
    }

    /// Milliseconds until `run` has something to do by itself.
    pub fn wait_ms(&self, now_ms: f64) -> u32 {
        let wait = (self.deadline_ms - now_ms).ceil().max(0.0);
        if wait < f64::from(NEVER) {
            wait as u32
        } else {
            NEVER
        }
    }

    /// Room for one more socket.
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.limits.sockets
    }
}

impl Device {
    /// The device's stack, made by the first use of it.
    pub fn with_stack<Result>(&mut self, act: impl FnOnce(&mut Stack, &mut Device) -> Result) -> Result {
        let mut stack = match self.stack.take() {
            Some(stack) => stack,
            None => Stack::new(self),
        };
        let result = act(&mut stack, self);
        self.stack = Some(stack);
        result
    }

    /// A packet to a tunnel that has no device.
    #[inline(never)]
    pub fn to_stack(&mut self, peer: u32, ip: Ip, packet: &[u8]) {
        let served = self.gateway.addresses.contains(&ip.destination(packet)) && !ip.source(packet).forbidden();
        if !served {
            return self.counters.add(Counter::NotServed);
        }
        self.with_stack(|stack, device| match ip.fragment {
            false => stack.receive(device, peer, packet, &ip),
            true => stack.receive_part(device, peer, packet, &ip),
        });
    }

    /// Lets the stack go on; false when the outputs are full first.
    #[inline]
    pub fn run_stack(&mut self) -> bool {
        self.stack.is_none() || self.run_made_stack()
    }

    #[inline(never)]
    fn run_made_stack(&mut self) -> bool {
        let Some(mut stack) = self.stack.take() else { return true };
        let done = stack.run(self);
        self.stack = Some(stack);
        done
    }
}

fn new_interface(device: &mut Device) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = random();
    let now = moment(device.clock.now_ms);
    let mut interface = Interface::new(config, &mut Link::new(device, &[]), now);
    // Which addresses are ours is known here; smoltcp has room for a few.
    interface.set_any_ip(true);
    interface
}

/// smoltcp's time of the device's.
pub fn moment(now_ms: f64) -> Instant {
    Instant::from_micros((now_ms * 1000.0) as i64)
}

/// smoltcp's address.
pub fn to_ip(address: Address) -> IpAddress {
    if address.v6 {
        IpAddress::Ipv6(Ipv6Addr::from(address.bits))
    } else {
        IpAddress::Ipv4(Ipv4Addr::from(address.bits as u32))
    }
}

/// The engine's address.
pub fn from_ip(address: IpAddress) -> Address {
    match IpAddr::from(address) {
        IpAddr::V4(v4) => Address { v6: false, bits: u128::from(u32::from(v4)) },
        IpAddr::V6(v6) => Address { v6: true, bits: u128::from(v6) },
    }
}

/// A number that nobody can foresee: the standard library keys its hashes with the host's randomness.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
