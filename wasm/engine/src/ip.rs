//! Reads IPv4 and IPv6 headers. Lengths are checked once, here; who has an `Ip` may index its header.

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

/// An address of either family; IPv4 uses the low 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    pub v6: bool,
    pub bits: u128,
}

/// A checked IP header.
#[derive(Clone, Copy)]
pub struct Ip {
    pub v6: bool,
    /// Bytes before the next header: IHL, or 40.
    pub header: usize,
    /// Bytes of the whole packet; never more than the buffer holds.
    pub total: usize,
    /// IPv4 protocol or IPv6 next header; extension headers are not followed.
    pub protocol: u8,
    pub fragment: bool,
}

impl Ip {
    /// None when the header is cut, lies about its length, or is neither version.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Ip> {
        match packet.first()? >> 4 {
            4 if packet.len() >= 20 => parse_v4(packet),
            6 if packet.len() >= 40 => parse_v6(packet),
            _ => None,
        }
    }

    #[inline]
    pub fn source(&self, packet: &[u8]) -> Address {
        if self.v6 {
            v6(&packet[8..24])
        } else {
            v4(&packet[12..16])
        }
    }

    #[inline]
    pub fn destination(&self, packet: &[u8]) -> Address {
        if self.v6 {
            v6(&packet[24..40])
        } else {
            v4(&packet[16..20])
        }
    }

    /// Both addresses as they lie in the header, for the pseudo header.
    #[inline]
    pub fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v6 {
            &packet[8..40]
        } else {
            &packet[12..20]
        }
    }
}

#[inline]
fn parse_v4(packet: &[u8]) -> Option<Ip> {
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if header < 20 || total < header || total > packet.len() {
        return None;
    }
    let fragment = (packet[6] & 0x3f) | packet[7] != 0;
    Some(Ip { v6: false, header, total, protocol: packet[9], fragment })
}

#[inline]
fn parse_v6(packet: &[u8]) -> Option<Ip> {
    let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    if total > packet.len() {
        return None;
    }
    Some(Ip { v6: true, header: 40, total, protocol: packet[6], fragment: packet[6] == 44 })
}

#[inline]
pub fn v4(bytes: &[u8]) -> Address {
    Address { v6: false, bits: u128::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) }
}

#[inline]
pub fn v6(bytes: &[u8]) -> Address {
    let mut all = [0; 16];
    all.copy_from_slice(&bytes[..16]);
    Address { v6: true, bits: u128::from_be_bytes(all) }
}

impl Address {
    /// Never forwarded between peers: multicast, broadcast, link-local, loopback, unspecified, IPv4-mapped.
    pub fn forbidden(&self) -> bool {
        if self.v6 {
            let top = (self.bits >> 112) as u16;
            top >> 8 == 0xff || top & 0xffc0 == 0xfe80 || self.bits >> 32 == 0xffff || self.bits <= 1
        } else {
            let a = self.bits as u32;
            a >> 28 == 14 || a == u32::MAX || a >> 16 == 0xa9fe || a >> 24 == 127 || a >> 24 == 0
        }
    }
}

/// True when the sender dictates the way: LSRR/SSRR options [RFC 791 3.1], type 0 routing header [RFC 5095].
pub fn source_routed(packet: &[u8], ip: &Ip) -> bool {
    if ip.v6 {
        v6_source_routed(packet, ip)
    } else {
        v4_source_routed(&packet[20..ip.header])
    }
}

fn v4_source_routed(mut options: &[u8]) -> bool {
    while let Some(&kind) = options.first() {
        let skip = match kind {
            0 => return false,
            1 => 1,
            0x83 | 0x89 => return true,
            _ => usize::from(options.get(1).copied().unwrap_or(0)),
        };
        if skip == 0 || skip > options.len() {
            return true;
        }
        options = &options[skip..];
    }
    false
}

/// Walks hop-by-hop, destination and routing headers; chains longer than eight are refused.
fn v6_source_routed(packet: &[u8], ip: &Ip) -> bool {
    let (mut next, mut at) = (ip.protocol, 40);
    for _ in 0..8 {
        if !matches!(next, 0 | 43 | 60) {
            return false;
        }
        let Some(head) = packet[..ip.total].get(at..at + 4) else { return true };
        if next == 43 && head[2] == 0 {
            return true;
        }
        next = head[0];
        at += 8 * (usize::from(head[1]) + 1);
    }
    true
}
