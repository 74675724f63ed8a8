//! What the network sends. Nothing here may trap: lengths are checked before boringtun sees a message.
//! Handshakes: mac1, then the load check, then X25519. All else is found by receiver index.

use crate::counters::Counter;
use crate::device::{Device, Kind, HANDSHAKES_PER_SECOND};
use crate::endpoint::Endpoint;
use crate::ip::Ip;
use crate::low_order::is_low_order;
use crate::mss::clamp;
use crate::sends::NO_PEER;
use boringtun::noise::errors::WireGuardError as Error;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};

/// Message types and sizes [WG 5.4].
const INITIATION: (u32, usize) = (1, 148);
const RESPONSE: (u32, usize) = (2, 92);
const COOKIE: (u32, usize) = (3, 64);
const TRANSPORT: u32 = 4;
const TRANSPORT_MIN: usize = 32;
/// [WG 6.1] REJECT_AFTER_MESSAGES: counters from here on are refused.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// What boringtun made of a transport message.
enum Opened {
    Packet(usize),
    Keepalive,
    Dropped(Counter),
}

impl Device {
    /// One datagram; `has_room()` holds.
    #[inline]
    pub fn datagram(&mut self, data: &[u8], source: &Endpoint) {
        let kind = if data.len() < 4 { 0 } else { word(data, 0) };
        match (kind, data.len()) {
            (TRANSPORT, TRANSPORT_MIN..) => self.transport(data, source),
            INITIATION => self.initiation(data, source),
            RESPONSE => self.response(data, source),
            COOKIE => self.cookie(data),
            _ => self.counters.add(Counter::Malformed),
        }
    }

    #[inline]
    fn transport(&mut self, data: &[u8], source: &Endpoint) {
        let counter = u64::from(word(data, 8)) | u64::from(word(data, 12)) << 32;
        let at = word(data, 4) >> 8;
        let Some(peer) = self.peers.get(at) else { return self.counters.add(Counter::UnknownIndex) };
        let Some(tunnel) = peer.tunnel.made() else { return self.counters.add(Counter::UnknownIndex) };
        if counter >= REJECT_AFTER_MESSAGES {
            return self.counters.add(Counter::Replayed);
        }
        let space = match self.kind {
            Kind::Member => self.merge.space(data.len() - TRANSPORT_MIN),
            _ => self.scratch.slice(0, self.scratch.len),
        };
        let opened = opened(tunnel.decapsulate(None, data, space));
        match opened {
            Opened::Packet(bytes) => {
                peer.received_bytes += bytes as u64;
                self.authenticated(at, source);
                self.inner_packet(at, &mut space[..data.len() - TRANSPORT_MIN]);
            }
            Opened::Keepalive => {
                self.authenticated(at, source);
                self.merge.cancel();
            }
            Opened::Dropped(why) => {
                self.counters.add(why);
                self.merge.cancel();
            }
        }
    }

    /// A packet this peer has proved to have sent, with its padding.
    #[inline]
    fn inner_packet(&mut self, at: u32, opened: &mut [u8]) {
        let dropped = match Ip::parse(opened) {
            None => Counter::BadPacket,
            Some(ip) if self.routes.find(ip.source(opened)) != Some(at) => self.spoofed(at),
            Some(ip) if self.kind == Kind::Member => {
                clamp(&mut opened[..ip.total], &ip, self.limit);
                return self.merge.commit(at, ip);
            }
            Some(ip) if self.kind == Kind::Netstack => return self.to_stack(at, ip, &opened[..ip.total]),
            Some(ip) => return self.forward(at, ip, opened),
        };
        self.counters.add(dropped);
        self.merge.cancel();
    }

    #[cold]
    fn spoofed(&mut self, at: u32) -> Counter {
        if let Some(peer) = self.peers.get(at) {
            peer.spoofed += 1;
        }
        Counter::Spoofed
    }

    /// A packet opened: the peer is alive, here, and has the session.
    #[inline]
    fn authenticated(&mut self, at: u32, source: &Endpoint) {
        self.heard(at, source);
        self.confirmed(at);
    }

    /// The peer is alive and here: the endpoint follows.
    #[inline]
    fn heard(&mut self, at: u32, source: &Endpoint) {
        let Some(peer) = self.peers.get(at) else { return };
        peer.unanswered = 0;
        if peer.endpoint != Some(*source) {
            if peer.endpoint.is_some() {
                self.counters.add(Counter::Roamed);
            }
            peer.endpoint = Some(*source);
        }
    }

    /// Both have the session: what was staged can go.
    #[inline]
    fn confirmed(&mut self, at: u32) {
        let Some(peer) = self.peers.get(at) else { return };
        if !peer.has_session {
            peer.gain_session();
        }
        if peer.has_session && peer.staged_packets > 0 {
            self.work.flush(at);
        }
    }

    /// mac1 and load; answers with a cookie. True when the handshake may cost an X25519.
    fn admit(&mut self, data: &[u8], source: &Endpoint) -> bool {
        match self.front.verify_packet(Some(source.ip()), data, self.sends.space()) {
            Ok(_) => {}
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let bytes = cookie.len();
                self.sends.push(NO_PEER, source, bytes);
                self.counters.add(Counter::CookiesSent);
                return false;
            }
            Err(_) => {
                self.counters.add(Counter::BadMac);
                return false;
            }
        }
        self.handshakes_in_second += 1;
        if self.handshakes_in_second > HANDSHAKES_PER_SECOND && !self.sources.allow(source.ip(), self.clock.now_ms) {
            self.counters.add(Counter::SourceLimited);
            return false;
        }
        true
    }

    fn initiation(&mut self, data: &[u8], source: &Endpoint) {
        if !self.admit(data, source) {
            return;
        }
        let Ok(Packet::HandshakeInit(message)) = Tunn::parse_incoming_packet(data) else { return };
        let half =
            (!is_low_order(&data[8..40])).then(|| parse_handshake_anon(&self.own.secret, &self.own.public, &message));
        let Some(Ok(half)) = half else { return self.counters.add(Counter::Unauthentic) };
        match self.peers.find(&half.peer_static_public) {
            Some(at) => self.handshake_message(at, data, source),
            None => self.counters.add(Counter::UnknownKey),
        }
    }

    fn response(&mut self, data: &[u8], source: &Endpoint) {
        if !self.admit(data, source) {
            return;
        }
        if is_low_order(&data[12..44]) {
            return self.counters.add(Counter::Unauthentic);
        }
        let at = word(data, 8) >> 8;
        if self.peers.get(at).is_none_or(|peer| peer.tunnel.made().is_none()) {
            return self.counters.add(Counter::UnknownIndex);
        }
        self.handshake_message(at, data, source);
    }

    /// An initiation gets a response, a response a keepalive: both mean a finished handshake on this side.
    fn handshake_message(&mut self, at: u32, data: &[u8], source: &Endpoint) {
        let Some(peer) = self.peers.get(at) else { return self.counters.add(Counter::UnknownIndex) };
        match peer.tunnel.get(&self.own).decapsulate(None, data, self.sends.space()) {
            TunnResult::WriteToNetwork(answer) => {
                let bytes = answer.len();
                self.handshakes += 1;
                self.counters.add(Counter::HandshakesCompleted);
                self.heard(at, source);
                if word(data, 0) == RESPONSE.0 {
                    self.confirmed(at);
                }
                self.send_to(at, bytes);
            }
            TunnResult::Err(error) => self.counters.add(why(error)),
            _ => {}
        }
    }

    /// Not authenticated by the peer's static key exchange, so the endpoint stays [WG 5.4.7].
    fn cookie(&mut self, data: &[u8]) {
        let found = self.peers.get(word(data, 4) >> 8).and_then(|peer| peer.tunnel.made());
        let Some(tunnel) = found else { return self.counters.add(Counter::UnknownIndex) };
        match tunnel.decapsulate(None, data, self.sends.space()) {
            TunnResult::Done => self.counters.add(Counter::CookiesReceived),
            TunnResult::Err(error) => self.counters.add(why(error)),
            _ => {}
        }
    }
}

#[inline]
fn opened(result: TunnResult) -> Opened {
    match result {
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => Opened::Packet(packet.len()),
        TunnResult::Done => Opened::Keepalive,
        TunnResult::Err(error) => Opened::Dropped(why(error)),
        TunnResult::WriteToNetwork(_) => Opened::Dropped(Counter::Unauthentic),
    }
}

fn why(error: Error) -> Counter {
    match error {
        Error::InvalidCounter | Error::DuplicateCounter | Error::WrongTai64nTimestamp => Counter::Replayed,
        Error::WrongIndex | Error::NoCurrentSession | Error::UnexpectedPacket => Counter::UnknownIndex,
        Error::InvalidPacket => Counter::BadPacket,
        _ => Counter::Unauthentic,
    }
}

#[inline]
fn word(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}
