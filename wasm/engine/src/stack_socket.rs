//! What the host does to its sockets.

use crate::ip::Address;
use crate::peers::NOBODY;
use crate::stack::{random, to_ip, Stack};
use crate::stack_entry::{news, Entry, Protocol, KEEP_ALIVE, SILENCE};
use smoltcp::socket::{icmp, tcp, udp, AnySocket};
use smoltcp::wire::IpEndpoint;

/// Ours: datagrams and their bytes that wait for the host, or for the network, at one socket.
const DATAGRAMS: usize = 64;
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Ports for connections of our own [RFC 6335 6].
const PRIVATE_PORTS: u16 = 49_152;
/// Ours: the longest step; a round of all ports is some 500 connections.
const PORT_STEP: u16 = 63;

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

    /// Sends a datagram or an echo request; false without an own address of the family or room in the socket's buffer.
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
        // Before it is open: set later, smoltcp asks at once.
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket
    }

    /// Adds a socket and gives its id.
    pub fn add(&mut self, socket: impl AnySocket<'static>, protocol: Protocol, peer: u32) -> u32 {
        let handle = self.sockets.add(socket);
        let id = self.next_id;
        // Below 2^31, so that ids and refusals fit one number.
        self.next_id = (self.next_id + 1) & 0x7fff_ffff;
        self.entries.push(Entry::new(id, handle, protocol, peer));
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

    /// Onwards in small steps [RFC 6056 3.3.5]: the other end may still know a connection from a port that was used of late.
    fn next_port(&mut self) -> u16 {
        self.last_port = self.last_port.wrapping_add(1 + (random() as u16 & PORT_STEP)) | PRIVATE_PORTS;
        self.last_port
    }

    /// Sockets are far fewer than ports.
    fn free_port(&mut self, protocol: Protocol) -> u16 {
        loop {
            let port = match protocol {
                Protocol::Tcp => self.next_port(),
                _ => random() as u16 | PRIVATE_PORTS,
            };
            if !self.is_taken(protocol, port) && !self.listening.contains(&port) {
                return port;
            }
        }
    }
}
