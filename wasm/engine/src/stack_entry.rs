//! A socket as the host sees it: what it is told of it, and when it is over.

use crate::endpoint::Endpoint;
use crate::peers::NOBODY;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Duration;

/// Ours: a connection whose handshake the other end does not finish; it sends its SYN once a second at first.
pub const HALF_OPEN: Duration = Duration::from_secs(10);
/// Ours: a peer that answers nothing for so long is gone; an idle one is asked well before.
pub const SILENCE: Duration = Duration::from_secs(120);
pub const KEEP_ALIVE: Duration = Duration::from_secs(45);
/// Ours: how long the other end may go on with a connection that the host has done with, as Linux has it.
const ORPHAN_MS: f64 = 60_000.0;

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
    pub left: Vec<u8>,
    /// When the host had done with it.
    pub released_ms: Option<f64>,
}

impl Entry {
    /// A socket that nothing has happened to.
    pub fn new(id: u32, handle: SocketHandle, protocol: Protocol, peer: u32) -> Entry {
        Entry {
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
        }
    }

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

    /// True when nobody needs it any more. A connection whose last word is sent does not wait for stray segments: they are
    /// answered with a reset.
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
