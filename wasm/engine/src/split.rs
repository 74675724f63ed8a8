//! Own packets larger than the tunnel carries, in parts [RFC 791 3.2] [RFC 8200 4.5].

use crate::checksum::{finish, sum};
use crate::counters::Counter;
use crate::device::Device;
use crate::ip::Ip;
use crate::outbound::PADDING;
use crate::segment::OVERHEAD;
use crate::stack::random;

const IPV6_FRAGMENT: u8 = 44;
/// Parts begin at multiples of this.
const BLOCK: usize = 8;

impl Device {
    /// Seals a packet in parts that fit; all of it is lost when the outputs have no room for them.
    #[cold]
    pub fn split(&mut self, to: u32, ip: &Ip, packet: &[u8]) {
        let (header, body) = packet[..ip.total].split_at(ip.header);
        let head = ip.header + if ip.v6 { BLOCK } else { 0 };
        let step = (self.mtu.saturating_sub(head) & !(BLOCK - 1)).max(BLOCK);
        let count = body.len().div_ceil(step);
        if !self.sends.has_room(count * (head + step + PADDING + OVERHEAD), count.div_ceil(32) + 2) {
            return self.counters.add(Counter::TooBig);
        }
        let id = random() as u32;
        let mut part = Vec::with_capacity(head + step);
        for at in (0..body.len()).step_by(step) {
            let end = body.len().min(at + step);
            let more = u16::from(end < body.len());
            part.clear();
            part.extend_from_slice(header);
            if ip.v6 {
                part.extend_from_slice(&[ip.protocol, 0]);
                part.extend_from_slice(&(at as u16 | more).to_be_bytes());
                part.extend_from_slice(&id.to_be_bytes());
                part[6] = IPV6_FRAGMENT;
                part[4..6].copy_from_slice(&((BLOCK + end - at) as u16).to_be_bytes());
            } else {
                part[2..4].copy_from_slice(&((header.len() + end - at) as u16).to_be_bytes());
                part[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                part[6..8].copy_from_slice(&((at / BLOCK) as u16 | more << 13).to_be_bytes());
                part[10..12].fill(0);
                let checksum = finish(sum(&part, 0));
                part[10..12].copy_from_slice(&checksum);
            }
            part.extend_from_slice(&body[at..end]);
            self.seal(to, &part, self.mtu);
        }
    }
}
