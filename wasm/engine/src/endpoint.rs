//! A peer's outer address, kept as the Linux sockaddr the host sends with.

use crate::ip::{Address, Ip, UDP};
use crate::memory::Descriptor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Words of a sockaddr_in or sockaddr_in6; unused words are zero, so equality is address equality.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub bytes: u32,
    pub words: [u32; 7],
}

impl Endpoint {
    /// None for another family or a short address.
    pub fn from_words(bytes: u32, words: &[u32; 7]) -> Option<Endpoint> {
        match words[0] as u16 {
            AF_INET if bytes >= 16 => Some(Endpoint { bytes: 16, words: [words[0], words[1], 0, 0, 0, 0, 0] }),
            // The flow label is the sender's business and may change with every packet.
            AF_INET6 if bytes >= 28 => {
                Some(Endpoint { bytes: 28, words: [words[0], 0, words[2], words[3], words[4], words[5], words[6]] })
            }
            _ => None,
        }
    }

    /// Of an address and a port.
    pub fn new(ip: IpAddr, port: u16) -> Endpoint {
        let head = |family: u16| u32::from(family) | u32::from(port.to_be()) << 16;
        match ip {
            IpAddr::V4(v4) => {
                Endpoint { bytes: 16, words: [head(AF_INET), u32::from_le_bytes(v4.octets()), 0, 0, 0, 0, 0] }
            }
            IpAddr::V6(v6) => {
                let raw = v6.octets();
                let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
                Endpoint { bytes: 28, words: [head(AF_INET6), 0, word(0), word(4), word(8), word(12), 0] }
            }
        }
    }

    /// The source the host wrote into a descriptor.
    pub fn of(descriptor: &Descriptor) -> Option<Endpoint> {
        Endpoint::from_words(descriptor.address_bytes, &descriptor.address)
    }

    /// True when this inner packet is a datagram to the endpoint itself: an outer datagram that was routed into the tunnel.
    /// Parts of one after the first have no port, so their address decides.
    #[inline]
    pub fn is_target_of(&self, ip: &Ip, packet: &[u8]) -> bool {
        if ip.protocol != UDP || !self.is_at(ip.destination(packet)) {
            return false;
        }
        let port = (self.words[0] >> 16) as u16;
        ip.fragment || packet.get(ip.header + 2..ip.header + 4) == Some(&port.to_le_bytes()[..])
    }

    fn is_at(&self, address: Address) -> bool {
        match self.ip() {
            IpAddr::V4(own) => !address.v6 && address.bits == u128::from(u32::from(own)),
            IpAddr::V6(own) => address.v6 && address.bits == u128::from(own),
        }
    }

    /// The address without its port, which cookies are bound to.
    pub fn ip(&self) -> IpAddr {
        if self.words[0] as u16 == AF_INET {
            return IpAddr::V4(Ipv4Addr::from(self.words[1].to_le_bytes()));
        }
        let mut all = [0; 16];
        for (bytes, word) in all.chunks_exact_mut(4).zip(&self.words[2..6]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(all))
    }
}
