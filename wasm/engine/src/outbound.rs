//! Seals packets for peers and keeps the handshake going until it can.

use crate::counters::Counter;
use crate::device::Device;
use crate::memory::Region;
use boringtun::noise::TunnResult;

/// First byte of a WireGuard message [WG 5.4].
const INITIATION: u8 = 1;
const TRANSPORT: u8 = 4;
/// Inner packets are padded to a multiple of this, so that their lengths tell less [WG 5.4.6].
pub const PADDING: usize = 16;

impl Device {
    /// Seals one inner packet for a peer, padded to `most` bytes at most; without a session it is staged and a handshake
    /// begins.
    #[inline]
    pub fn seal(&mut self, at: u32, packet: &[u8], most: usize) {
        let Some(peer) = self.peers.get(at) else { return };
        let Some(endpoint) = peer.endpoint else { return self.counters.add(Counter::NoEndpoint) };
        let inner = packet.len();
        let packet = pad(&self.padded, packet, most);
        if !peer.has_session {
            if !peer.may_stage(packet.len(), self.staged_total) {
                return self.counters.add(Counter::StagingFull);
            }
            peer.staged_packets += 1;
            peer.staged_bytes += packet.len();
            self.staged_total += packet.len();
        }
        let tunnel = peer.tunnel.get(&self.own);
        let TunnResult::WriteToNetwork(datagram) = tunnel.encapsulate(packet, self.sends.space()) else { return };
        let bytes = datagram.len();
        if datagram[0] == TRANSPORT {
            peer.sent_bytes += inner as u64;
            peer.last_sent_ms = self.clock.now_ms;
            self.sends.push(at, &endpoint, bytes);
        } else {
            self.send_to(at, bytes);
        }
    }

    /// Sends the message boringtun wrote at the send position to the peer's endpoint, if it has one.
    pub fn send_to(&mut self, at: u32, bytes: usize) {
        let kind = self.sends.space()[0];
        let Some(peer) = self.peers.get(at) else { return };
        if kind == INITIATION {
            peer.note_initiation();
            self.counters.add(Counter::InitiationsSent);
        } else {
            peer.last_sent_ms = self.clock.now_ms;
        }
        match peer.endpoint {
            Some(endpoint) => self.sends.push(at, &endpoint, bytes),
            None => self.counters.add(Counter::NoEndpoint),
        }
    }

    /// Starts a handshake; `force` also when one is in flight.
    pub fn initiate(&mut self, at: u32, force: bool) {
        let Some(peer) = self.peers.get(at) else { return };
        if peer.endpoint.is_none() {
            return self.counters.add(Counter::NoEndpoint);
        }
        if force {
            self.clock.step();
        }
        let tunnel = peer.tunnel.get(&self.own);
        if let TunnResult::WriteToNetwork(datagram) = tunnel.format_handshake_initiation(self.sends.space(), force) {
            let bytes = datagram.len();
            self.send_to(at, bytes);
        }
    }

    /// Sends what was staged while there was no session. False when the outputs are full before it is done.
    pub fn flush(&mut self, at: u32) -> bool {
        loop {
            if !self.has_room() {
                return false;
            }
            let Some(peer) = self.peers.get(at) else { return true };
            if !peer.has_session || peer.staged_packets == 0 {
                return true;
            }
            let tunnel = peer.tunnel.get(&self.own);
            let TunnResult::WriteToNetwork(datagram) = tunnel.decapsulate(None, &[], self.sends.space()) else {
                self.forget_staged(at);
                return true;
            };
            let bytes = datagram.len();
            peer.sent_bytes += bytes.saturating_sub(32) as u64;
            self.send_to(at, bytes);
        }
    }

    /// boringtun's queue for this peer is empty: gives its share of the staging budget back.
    pub fn forget_staged(&mut self, at: u32) {
        if let Some(peer) = self.peers.get(at) {
            self.staged_total -= peer.staged_bytes;
            (peer.staged_packets, peer.staged_bytes) = (0, 0);
        }
    }

    /// One peer's timers: retries, rekeys, keepalives, expiry.
    pub fn tick_peer(&mut self, at: u32) {
        let Some(peer) = self.peers.get(at) else { return };
        let done = peer.tunnel.made().map_or(TunnResult::Done, |tunnel| tunnel.update_timers(self.sends.space()));
        let expired = match done {
            TunnResult::WriteToNetwork(datagram) => {
                let bytes = datagram.len();
                self.send_to(at, bytes);
                false
            }
            TunnResult::Err(_) => true,
            _ => false,
        };
        if expired {
            self.forget_staged(at);
        }
        let now_ms = self.clock.now_ms;
        let Some(peer) = self.peers.get(at) else { return };
        peer.check_session();
        let due = peer.keepalive_ms > 0.0 && now_ms - peer.last_sent_ms >= peer.keepalive_ms;
        if peer.endpoint.is_none() {
            return;
        }
        // boringtun forgets its own handshake when two of the peer's cross it, and then nobody would send what waits.
        if peer.staged_packets > 0 {
            self.initiate(at, false);
        } else if due {
            self.keep_alive(at);
        }
    }

    /// Ours, not boringtun's persistent keepalive: that one cannot be changed later and fires while data flows.
    fn keep_alive(&mut self, at: u32) {
        let Some(peer) = self.peers.get(at) else { return };
        if peer.has_session {
            self.seal(at, &[], 0);
        } else {
            self.initiate(at, false);
        }
    }
}

/// Bytes of a packet with its padding: a multiple of 16, but no more than `most` unless the packet itself is.
#[inline]
pub fn padded(bytes: usize, most: usize) -> usize {
    bytes.next_multiple_of(PADDING).min(most.max(bytes))
}

/// The packet with zeros behind it. Only packets that get some are copied: those of the MTU's size get none.
#[inline]
fn pad<'a>(space: &Region, packet: &'a [u8], most: usize) -> &'a [u8] {
    let bytes = padded(packet.len(), most);
    if bytes == packet.len() {
        return packet;
    }
    let copy = space.slice(0, bytes);
    copy[..packet.len()].copy_from_slice(packet);
    copy[packet.len()..].fill(0);
    copy
}
