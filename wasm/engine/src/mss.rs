//! Keeps TCP connections within the tunnel: the largest segment that a SYN asks for is lowered to what fits [RFC 9293 3.7.1].
//! Without it, a connection hangs whose ends are behind the tunnel and whose path loses the ICMP messages that tell its size.

use crate::checksum::replace;
use crate::ip::{Ip, TCP};

const FLAG_SYN: u8 = 2;
const TCP_HEADER: usize = 20;
const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;
/// Option kinds [RFC 9293 3.2].
const END: u8 = 0;
const PADDING: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_BYTES: usize = 4;

/// Lowers the segment size that a SYN or SYN-ACK names; all else stays as it is, and so does a SYN whose options lie.
/// `packet` ends with the IP packet. Extension headers are not followed.
#[inline]
pub fn clamp(packet: &mut [u8], ip: &Ip, mtu: usize) {
    if ip.protocol == TCP && !ip.fragment && packet.get(ip.header + FLAGS_AT).is_some_and(|flags| flags & FLAG_SYN != 0) {
        // The size leaves out both headers without their options [RFC 6691].
        let most = mtu.saturating_sub(if ip.v6 { 40 } else { 20 } + TCP_HEADER);
        clamp_syn(&mut packet[ip.header..], most);
    }
}

#[cold]
fn clamp_syn(segment: &mut [u8], most: usize) {
    let Ok(most) = u16::try_from(most) else { return };
    let Some(at) = size_at(segment) else { return };
    let old = [segment[at], segment[at + 1]];
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    segment[at..at + 2].copy_from_slice(&new);
    // An option may begin anywhere: at an odd place its bytes belong to the other halves of two words.
    let swap = |word: [u8; 2]| if at % 2 == 1 { [word[1], word[0]] } else { word };
    let field = [segment[CHECKSUM_AT], segment[CHECKSUM_AT + 1]];
    let checksum = replace(field, swap(old), swap(new));
    segment[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum);
}

/// Where the segment size lies in a TCP header; None without one, or when the options do not add up.
fn size_at(segment: &[u8]) -> Option<usize> {
    let header = usize::from(segment.get(12)? >> 4) * 4;
    if header < TCP_HEADER || header > segment.len() {
        return None;
    }
    let mut at = TCP_HEADER;
    while at < header {
        let kind = segment[at];
        match kind {
            END => return None,
            PADDING => at += 1,
            _ => {
                let bytes = usize::from(*segment[..header].get(at + 1)?);
                if kind == SEGMENT_SIZE {
                    return (bytes == SEGMENT_SIZE_BYTES && at + bytes <= header).then_some(at + 2);
                }
                if bytes < 2 {
                    return None;
                }
                at += bytes;
            }
        }
    }
    None
}
