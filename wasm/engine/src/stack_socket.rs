//! A socket as the host sees it: what it does to it, and what it is told of it.

use crate::endpoint::Endpoint;
use crate::ip::Address;
use crate::peers::NOBODY;
use crate::stack::{random, to_ip, Stack};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{icmp, tcp, udp, AnySocket};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

/// Ours: a connection whose handshake the other end does not finish; it sends its SYN once a second at first.
pub const HALF_OPEN: Duration = Duration::from_secs(10);
/// Ours: a peer that answers nothing for so long is gone; an idle one is asked well before.
const SILENCE: Duration = Duration::from_secs(120);
const KEEP_ALIVE: Duration = Duration::from_secs(45);
/// Ours: how long the other end may go on with a connection that the host has done with, as Linux has it.
const ORPHAN_MS: f64 = 60_000.0;
/// Ours: datagrams and their bytes that wait for the host, or for the network, at one socket.
const DATAGRAMS: usize = 64;
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Ports for connections of our own [RFC 6335 6].
const PRIVATE_PORTS: u16 = 49_152;

/// What the host is told, once for each change.
pub mod news {
    /// The connection that was asked for is there.
    pub const CONNECTED: u32 = 1;
    pub const READABLE: u32 = 2;
    /// A quarter of the send buffer is free.
    pub const WRITABLE: u32 = 4;
    /// The other end sends no more, and all it sent was read.
    pub const ENDED: u32 = 8;
    /// The other end refused or broke the connection.
    pub const RESET: u32 = 16;
    /// The other end does not answer.
    pub const LOST: u32 = 32;
    /// A connection to a port that is listened to.
    pub const ACCEPTED: u32 = 64;
    /// Both ends have ended, and the other one knows.
    pub const CLOSED: u32 = 128;
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Echo,
}

/// Where a connection was when it was looked at last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Opening,
    Open,
    /// Our end is the last to be acknowledged.
    Ending,
    Done,
}

/// One socket.
pub struct Entry {
    pub id: u32,
    pub handle: SocketHandle,
    pub protocol: Protocol,
    /// Who opened the connection; `NOBODY` for what the host opened.
    pub peer: u32,
    /// The own port of a connection that a peer opened, of a datagram socket, or an echo socket's identifier.
    pub port: u16,
    pub state: State,
    pub told: u32,
    pub was_reset: bool,
    /// The other end has sent all it had.
    has_ended: bool,
    /// What the host has not read of a connection that is over: smoltcp keeps it for ten seconds only.
    left: Vec<u8>,
    /// When the host had done with it.
    released_ms: Option<f64>,
}

impl Entry {
    /// A peer's connection before its handshake is done.
    pub fn is_half_open(&self) -> bool {
        self.peer != NOBODY && self.state == State::Opening
    }

    /// What the host does not know yet.
    pub fn look(&mut self, sockets: &mut SocketSet<'static>, now_ms: f64) -> u32 {
        let found = match self.protocol {
            Protocol::Tcp => {
                let socket = sockets.get_mut::<tcp::Socket>(self.handle);
                if self.orphan_ends_ms().is_some_and(|end| now_ms >= end) {
                    socket.abort();
                }
                self.look_at_tcp(socket)
            }
            Protocol::Udp => readable(sockets.get::<udp::Socket>(self.handle).can_recv()),
            Protocol::Echo => readable(sockets.get::<icmp::Socket>(self.handle).can_recv()),
        };
        // What is never released was never shown: a handshake that came to nothing.
        if self.is_half_open() || self.released_ms.is_some() {
            0
        } else {
            found & !self.told
        }
    }

    /// When a connection that the host has done with is broken off.
    pub fn orphan_ends_ms(&self) -> Option<f64> {
        self.released_ms.filter(|_| self.protocol == Protocol::Tcp).map(|since| since + ORPHAN_MS)
    }

    fn look_at_tcp(&mut self, socket: &mut tcp::Socket) -> u32 {
        use tcp::State::{CloseWait, Closed, Closing, LastAck, Listen, SynReceived, SynSent, TimeWait};
        let state = socket.state();
        let mut found = 0;
        if self.state == State::Opening && !matches!(state, Closed | Listen | SynSent | SynReceived) {
            self.state = State::Open;
            socket.set_timeout(Some(SILENCE));
            socket.set_keep_alive(Some(KEEP_ALIVE));
        }
        while state == TimeWait && socket.can_recv() {
            let _ = socket.recv(|piece| (piece.len(), self.left.extend_from_slice(piece)));
        }
        if self.state != State::Opening {
            let has_more = socket.can_recv() || !self.left.is_empty();
            found |= if self.peer == NOBODY { news::CONNECTED } else { news::ACCEPTED };
            found |= readable(has_more);
            let free = socket.send_capacity() - socket.send_queue();
            found |= if socket.may_send() && free * 4 >= socket.send_capacity() { news::WRITABLE } else { 0 };
            self.has_ended |= matches!(state, CloseWait | LastAck | Closing | TimeWait);
            found |= if self.has_ended && !has_more { news::ENDED } else { 0 };
        }
        match state {
            TimeWait => found |= news::CLOSED,
            Closed if self.told & news::CLOSED != 0 => {}
            Closed if self.was_reset => found |= news::RESET,
            Closed if self.state == State::Ending => found |= news::CLOSED,
            Closed => found |= news::LOST,
            LastAck => self.state = State::Ending,
            _ => {}
        }
        if matches!(state, TimeWait | Closed) && !self.is_half_open() {
            self.state = State::Done;
        }
        found
    }

    /// True when nobody needs it any more. A connection does not wait for stray segments: they are answered with a reset.
    pub fn is_done(&self, sockets: &SocketSet<'static>) -> bool {
        if self.protocol != Protocol::Tcp {
            return self.released_ms.is_some();
        }
        let socket = sockets.get::<tcp::Socket>(self.handle);
        let over = match socket.state() {
            tcp::State::Closed => socket.remote_endpoint().is_none(),
            tcp::State::TimeWait | tcp::State::Listen => true,
            _ => false,
        };
        over && (self.released_ms.is_some() || self.is_half_open())
    }

    /// The other end, as a socket address of the host.
    pub fn remote(&self, sockets: &SocketSet<'static>) -> (u32, [u32; 7]) {
        let remote = match self.protocol {
            Protocol::Tcp => sockets.get::<tcp::Socket>(self.handle).remote_endpoint(),
            _ => None,
        };
        remote.map_or((0, [0; 7]), |remote| {
            let at = Endpoint::new(remote.addr.into(), remote.port);
            (at.bytes, at.words)
        })
    }
}

fn readable(yes: bool) -> u32 {
    if yes {
        news::READABLE
    } else {
        0
    }
}

impl Stack {
    /// A new connection; None without room, an own address of the family, or a free port.
    pub fn connect(&mut self, own: &[Address], to: Address, port: u16) -> Option<u32> {
        let from = own.iter().find(|address| address.v6 == to.v6)?;
        if !self.has_room() || port == 0 || to.forbidden() {
            return None;
        }
        let mut socket = self.new_tcp();
        socket.set_timeout(Some(SILENCE));
        let remote = IpEndpoint::new(to_ip(to), port);
        let local = IpEndpoint::new(to_ip(*from), self.free_port(Protocol::Tcp));
        socket.connect(self.interface.context(), remote, local).ok()?;
        Some(self.add(socket, Protocol::Tcp, NOBODY))
    }

    /// A socket for datagrams at this port, or at any free one for 0; None without room or when it is taken.
    pub fn open_udp(&mut self, port: u16) -> Option<u32> {
        let port = if port == 0 { self.free_port(Protocol::Udp) } else { port };
        if !self.has_room() || self.is_taken(Protocol::Udp, port) {
            return None;
        }
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).ok()?;
        Some(self.add_at(socket, Protocol::Udp, port))
    }

    /// A socket for echo requests with an identifier of its own.
    pub fn open_echo(&mut self) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        let ident = self.free_port(Protocol::Echo);
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES / 4]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).ok()?;
        Some(self.add_at(socket, Protocol::Echo, ident))
    }

    /// Bytes that the connection takes now; None when it takes no more at all.
    pub fn send(&mut self, id: u32, bytes: &[u8]) -> Option<usize> {
        let at = self.find(id, Protocol::Tcp)?;
        let taken = self.tcp(at).send_slice(bytes).ok()?;
        if taken < bytes.len() {
            self.entries[at].told &= !news::WRITABLE;
        }
        self.touched = true;
        Some(taken)
    }

    /// Bytes of the connection that were copied; 0 when nothing waits.
    pub fn take(&mut self, id: u32, into: &mut [u8]) -> usize {
        let Some(at) = self.find(id, Protocol::Tcp) else { return 0 };
        let mut taken = self.entries[at].left.len().min(into.len());
        into[..taken].copy_from_slice(&self.entries[at].left[..taken]);
        self.entries[at].left.drain(..taken);
        let socket = self.tcp(at);
        // A ring is read in at most two pieces.
        for _ in 0..2 {
            taken += socket.recv_slice(&mut into[taken..]).unwrap_or(0);
        }
        if !socket.can_recv() && self.entries[at].left.is_empty() {
            self.entries[at].told &= !news::READABLE;
        }
        self.touched = true;
        taken
    }

    /// Sends a datagram or an echo request; false when it does not fit into a packet or the socket's buffer.
    pub fn send_to(&mut self, id: u32, from: &[Address], to: (Address, u16), bytes: &[u8]) -> bool {
        let Some(source) = from.iter().find(|address| address.v6 == to.0.v6) else { return false };
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else { return false };
        let Entry { handle, protocol, port, .. } = self.entries[at];
        self.touched = true;
        match protocol {
            Protocol::Tcp => false,
            Protocol::Udp => {
                let mut meta = udp::UdpMetadata::from(IpEndpoint::new(to_ip(to.0), to.1));
                meta.local_address = Some(to_ip(*source));
                self.sockets.get_mut::<udp::Socket>(handle).send_slice(bytes, meta).is_ok()
            }
            Protocol::Echo => {
                let request = crate::stack_echo::request(to.0.v6, port, to.1, bytes);
                self.sockets.get_mut::<icmp::Socket>(handle).send_slice(&request, to_ip(to.0)).is_ok()
            }
        }
    }

    /// The oldest datagram that waits, or echo reply from its identifier on: bytes that were copied and where it came from.
    pub fn take_from(&mut self, id: u32, into: &mut [u8]) -> Option<(usize, IpEndpoint)> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let Entry { handle, protocol, .. } = self.entries[at];
        let taken = match protocol {
            Protocol::Tcp => None,
            Protocol::Udp => {
                let (bytes, meta) = self.sockets.get_mut::<udp::Socket>(handle).recv().ok()?;
                into[..bytes.len()].copy_from_slice(bytes);
                Some((bytes.len(), meta.endpoint))
            }
            Protocol::Echo => {
                let (bytes, from) = self.sockets.get_mut::<icmp::Socket>(handle).recv().ok()?;
                into[..bytes.len()].copy_from_slice(bytes);
                Some((bytes.len(), IpEndpoint::new(from, 0)))
            }
        };
        let more = match protocol {
            Protocol::Udp => self.sockets.get::<udp::Socket>(handle).can_recv(),
            _ => self.sockets.get::<icmp::Socket>(handle).can_recv(),
        };
        if !more {
            self.entries[at].told &= !news::READABLE;
        }
        taken
    }

    /// The host sends no more on this connection.
    pub fn end(&mut self, id: u32) {
        if let Some(at) = self.find(id, Protocol::Tcp) {
            self.tcp(at).close();
            self.touched = true;
        }
    }

    /// The host has done with a socket: what was sent still arrives, unless it is broken off.
    pub fn release(&mut self, id: u32, breaks: bool, now_ms: f64) {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else { return };
        self.entries[at].released_ms = Some(now_ms);
        self.touched = true;
        if self.entries[at].protocol != Protocol::Tcp {
            return;
        }
        let socket = self.tcp(at);
        // What nobody will read must not look as if it had been.
        if breaks || socket.can_recv() {
            socket.abort();
        } else {
            socket.close();
        }
    }

    /// A connection with the buffers of this stack.
    pub fn new_tcp(&self) -> tcp::Socket<'static> {
        let buffer = |bytes: usize| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(self.limits.receive_bytes), buffer(self.limits.send_bytes));
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        // The host writes what it has at once; waiting for more would only delay it.
        socket.set_nagle_enabled(false);
        socket
    }

    /// Adds a socket and gives its id.
    pub fn add(&mut self, socket: impl AnySocket<'static>, protocol: Protocol, peer: u32) -> u32 {
        let handle = self.sockets.add(socket);
        let id = self.next_id;
        // Below 2^31, so that ids and refusals fit one number.
        self.next_id = (self.next_id + 1) & 0x7fff_ffff;
        let entry = Entry {
            id,
            handle,
            protocol,
            peer,
            port: 0,
            state: State::Opening,
            told: 0,
            was_reset: false,
            has_ended: false,
            left: Vec::new(),
            released_ms: None,
        };
        self.entries.push(entry);
        self.touched = true;
        id
    }

    fn add_at(&mut self, socket: impl AnySocket<'static>, protocol: Protocol, port: u16) -> u32 {
        let id = self.add(socket, protocol, NOBODY);
        if let Some(entry) = self.entries.last_mut() {
            entry.port = port;
        }
        id
    }

    fn find(&self, id: u32, protocol: Protocol) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id && entry.protocol == protocol && entry.released_ms.is_none())
    }

    fn tcp(&mut self, at: usize) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.entries[at].handle)
    }

    fn is_taken(&self, protocol: Protocol, port: u16) -> bool {
        self.entries.iter().filter(|entry| entry.protocol == protocol).any(|entry| match protocol {
            Protocol::Tcp => {
                let local = self.sockets.get::<tcp::Socket>(entry.handle).local_endpoint();
                local.is_some_and(|local| local.port == port)
            }
            _ => entry.port == port,
        })
    }

    /// Sockets are far fewer than ports.
    fn free_port(&self, protocol: Protocol) -> u16 {
        loop {
            let port = random() as u16 | PRIVATE_PORTS;
            if !self.is_taken(protocol, port) && !self.listening.contains(&port) {
                return port;
            }
        }
    }
}
