//! Echo requests [RFC 792] [RFC 4443 4.1] as smoltcp's echo sockets take them.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv6Address};

/// A request; its checksum is smoltcp's to fill when it leaves.
pub fn request(v6: bool, ident: u16, seq_no: u16, data: &[u8]) -> Vec<u8> {
    let none = ChecksumCapabilities::ignored();
    if v6 {
        let request = Icmpv6Repr::EchoRequest { ident, seq_no, data };
        let mut bytes = vec![0; request.buffer_len()];
        let nobody = Ipv6Address::UNSPECIFIED;
        request.emit(&nobody, &nobody, &mut Icmpv6Packet::new_unchecked(&mut bytes), &none);
        return bytes;
    }
    let request = Icmpv4Repr::EchoRequest { ident, seq_no, data };
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &none);
    bytes
}
