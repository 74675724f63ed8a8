//! Packets for the TUN device, merged into super-packets with a virtio_net_hdr in front.
//!
//! A packet is opened where its payload would continue the current item: its headers then overlay the item's last
//! bytes, which are saved and put back. A merge so costs no copy; a packet that does not fit is moved behind the item.
//! Only packets whose checksums were verified are merged: the kernel trusts a super-packet's parts.

use crate::checksum::{finish, fold, pseudo, sum};
use crate::ip::{Ip, TCP, UDP};
use crate::memory::{Descriptor, Descriptors, Region, MARGIN, PACKET_MAX, VNET_BYTES};

/// Longest headers of a merged packet: 40 (IPv6) + 60 (TCP).
const HEADERS_MAX: usize = 100;
const NEEDS_CSUM: u8 = 1;
/// gso_type [virtio 1.2, 5.1.6].
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const FLAG_PSH: u8 = 8;
const FLAG_ACK: u8 = 16;

/// The output towards the TUN device.
pub struct Merge {
    pub descriptors: Descriptors,
    region: Region,
    end: usize,
    pub count: usize,
    item: Option<Item>,
    /// Where the packet being opened lies.
    at: usize,
    /// What its headers overlay; empty when it lies behind the item.
    overlaid: usize,
    saved: [u8; HEADERS_MAX],
    pub tcp: bool,
    pub udp: bool,
}

/// The packet, perhaps of several segments, that ends at `end`.
#[derive(Clone, Copy)]
struct Item {
    peer: u32,
    base: usize,
    bytes: usize,
    segments: u32,
    shape: Shape,
    open: bool,
}

/// What merging needs to know of a packet.
#[derive(Clone, Copy)]
struct Shape {
    v6: bool,
    protocol: u8,
    ip_header: usize,
    headers: usize,
    payload: usize,
    sequence: u32,
    push: bool,
}

impl Merge {
    /// Room for `bytes` in `descriptors` packets; merging is on.
    pub fn new(descriptors: usize, bytes: usize) -> Merge {
        Merge {
            descriptors: Descriptors::new(descriptors),
            region: Region::new(bytes + VNET_BYTES + MARGIN),
            end: 0,
            count: 0,
            item: None,
            at: 0,
            overlaid: 0,
            saved: [0; HEADERS_MAX],
            tcp: true,
            udp: true,
        }
    }

    /// Takes the outputs of the last call back.
    pub fn clear(&mut self) {
        (self.end, self.count, self.item, self.overlaid) = (0, 0, None, 0);
    }

    /// Room for one more largest packet beside the item still open.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.end + VNET_BYTES + MARGIN <= self.region.len && self.count + 2 <= self.descriptors.capacity
    }

    /// Where to open a packet of at most `bytes` with its padding; ends with `commit` or `cancel`.
    #[inline]
    pub fn space(&mut self, bytes: usize) -> &'static mut [u8] {
        self.at = self.end + VNET_BYTES;
        self.overlaid = 0;
        if let Some(Item { open: true, shape, .. }) = self.item {
            if bytes > shape.headers {
                self.overlaid = shape.headers;
                self.at = self.end - shape.headers;
                self.saved[..shape.headers].copy_from_slice(self.region.slice(self.at, shape.headers));
            }
        }
        self.region.slice(self.at, MARGIN)
    }

    /// Forgets the packet being opened.
    #[inline]
    pub fn cancel(&mut self) {
        if self.overlaid > 0 {
            self.region.slice(self.at, self.overlaid).copy_from_slice(&self.saved[..self.overlaid]);
            self.overlaid = 0;
        }
    }

    /// Takes over the packet being opened.
    #[inline]
    pub fn commit(&mut self, peer: u32, ip: Ip) {
        let packet = self.region.slice(self.at, ip.total);
        let shape = self.shape(packet, &ip);
        if self.overlaid == 0 {
            return self.start(peer, ip.total, shape);
        }
        match (self.item.take(), shape) {
            (Some(item), Some(shape)) if self.continues(&item, &shape, packet) => self.append(item, &shape),
            (item, _) => {
                self.item = item;
                // Ascending and overlapping, so a memmove; the item's own bytes come back afterwards.
                let shift = self.end + VNET_BYTES - self.at;
                self.region.slice(self.at, shift + ip.total).copy_within(..ip.total, shift);
                self.cancel();
                self.start(peer, ip.total, shape);
            }
        }
    }

    /// The payload lies where it belongs: put the item's bytes back over the headers and count it in.
    #[inline]
    fn append(&mut self, mut item: Item, shape: &Shape) {
        self.cancel();
        item.bytes += shape.payload;
        item.segments += 1;
        item.open = shape.payload == item.shape.payload && !shape.push;
        item.shape.sequence = shape.sequence;
        if shape.push {
            self.region.slice(item.base + VNET_BYTES + shape.ip_header + 13, 1)[0] |= FLAG_PSH;
        }
        self.end += shape.payload;
        self.item = Some(item);
    }

    /// The packet behind the item becomes the next one.
    fn start(&mut self, peer: u32, bytes: usize, shape: Option<Shape>) {
        self.finish();
        let open = shape.is_some_and(|shape| !shape.push);
        let shape = shape.unwrap_or(Shape::NONE);
        self.item = Some(Item { peer, base: self.end, bytes, segments: 1, shape, open });
        self.end += VNET_BYTES + bytes;
    }

    /// Completes the current item: header fields of a super-packet, virtio_net_hdr, descriptor.
    pub fn finish(&mut self) {
        let Some(item) = self.item.take() else { return };
        let (vnet, packet) = self.region.slice(item.base, VNET_BYTES + item.bytes).split_at_mut(VNET_BYTES);
        vnet.fill(0);
        if item.segments > 1 {
            complete(&item.shape, vnet, packet);
        }
        let offset = self.region.offset() + item.base as u32;
        let bytes = (VNET_BYTES + item.bytes) as u32;
        self.descriptors.set(self.count, Descriptor { offset, bytes, peer: item.peer, ..Descriptor::EMPTY });
        self.count += 1;
    }

    /// The shape of a packet that may be merged: plain TCP or UDP with payload and good checksums.
    #[inline]
    fn shape(&self, packet: &[u8], ip: &Ip) -> Option<Shape> {
        if ip.fragment || (!ip.v6 && ip.header != 20) {
            return None;
        }
        let l4 = &packet[ip.header..];
        let (l4_header, sequence, push) = match ip.protocol {
            TCP if self.tcp && l4.len() >= 20 && l4[13] & !FLAG_PSH == FLAG_ACK => {
                let sequence = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]);
                (usize::from(l4[12] >> 4) * 4, sequence, l4[13] & FLAG_PSH != 0)
            }
            UDP if self.udp && l4.len() >= 8 && usize::from(u16::from_be_bytes([l4[4], l4[5]])) == l4.len() => {
                // Zero means no checksum, so nothing was verified.
                if l4[6] == 0 && l4[7] == 0 {
                    return None;
                }
                (8, 0, false)
            }
            _ => return None,
        };
        let minimum = if ip.protocol == TCP { 20 } else { 8 };
        if l4_header < minimum || l4.len() <= l4_header || !verified(packet, ip) {
            return None;
        }
        let payload = l4.len() - l4_header;
        let headers = ip.header + l4_header;
        let sequence = sequence.wrapping_add(payload as u32);
        Some(Shape { v6: ip.v6, protocol: ip.protocol, ip_header: ip.header, headers, payload, sequence, push })
    }

    /// True when `packet` is the next part of the item: same flow, same headers, next bytes, not longer.
    #[inline]
    fn continues(&self, item: &Item, next: &Shape, packet: &[u8]) -> bool {
        let was = &item.shape;
        let same = was.v6 == next.v6 && was.protocol == next.protocol && was.headers == next.headers;
        if !same || next.payload > was.payload || item.bytes + next.payload > PACKET_MAX {
            return false;
        }
        // The part of the item's headers that the packet overlays is in `saved` when the payload is shorter.
        let mut headers = [0; HEADERS_MAX];
        headers[..was.headers].copy_from_slice(self.region.slice(item.base + VNET_BYTES, was.headers));
        let overlay = (item.base + VNET_BYTES + was.headers).saturating_sub(self.at);
        if overlay > 0 {
            let from = was.headers - overlay;
            headers[from..was.headers].copy_from_slice(&self.saved[..overlay]);
        }
        let expected = next.sequence.wrapping_sub(next.payload as u32);
        same_headers(&headers, packet, next) && (next.protocol == UDP || was.sequence == expected)
    }
}

impl Shape {
    const NONE: Shape =
        Shape { v6: false, protocol: 0, ip_header: 0, headers: 0, payload: 0, sequence: 0, push: false };
}

/// Everything but lengths, checksums, IPv4 id, TCP sequence and PSH.
#[inline]
fn same_headers(a: &[u8], b: &[u8], shape: &Shape) -> bool {
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let network = if shape.v6 { same(0, 4) && same(6, 40) } else { same(0, 2) && same(6, 10) && same(12, 20) };
    let h = shape.ip_header;
    let transport = shape.protocol == UDP || (same(h + 8, h + 13) && same(h + 20, shape.headers));
    network && same(h, h + 4) && transport
}

#[inline]
fn verified(packet: &[u8], ip: &Ip) -> bool {
    let l4 = &packet[ip.header..];
    let header_good = ip.v6 || fold(sum(&packet[..ip.header], 0)) == 0xffff;
    header_good && fold(sum(l4, pseudo(ip.addresses(packet), ip.protocol, l4.len()))) == 0xffff
}

/// The virtio_net_hdr of a super-packet, its lengths, and the pseudo-header sum the kernel starts from.
fn complete(shape: &Shape, vnet: &mut [u8], packet: &mut [u8]) {
    let (field, gso) = match (shape.protocol, shape.v6) {
        (UDP, _) => (6, GSO_UDP_L4),
        (_, false) => (16, GSO_TCPV4),
        (_, true) => (16, GSO_TCPV6),
    };
    let (h, l4_bytes) = (shape.ip_header, packet.len() - shape.ip_header);
    vnet[0] = NEEDS_CSUM;
    vnet[1] = gso;
    vnet[2..4].copy_from_slice(&(shape.headers as u16).to_le_bytes());
    vnet[4..6].copy_from_slice(&(shape.payload as u16).to_le_bytes());
    vnet[6..8].copy_from_slice(&(h as u16).to_le_bytes());
    vnet[8..10].copy_from_slice(&(field as u16).to_le_bytes());
    if shape.v6 {
        packet[4..6].copy_from_slice(&(l4_bytes as u16).to_be_bytes());
    } else {
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = finish(sum(&packet[..h], 0));
        packet[10..12].copy_from_slice(&checksum);
    }
    if shape.protocol == UDP {
        packet[h + 4..h + 6].copy_from_slice(&(l4_bytes as u16).to_be_bytes());
    }
    let addresses = if shape.v6 { &packet[8..40] } else { &packet[12..20] };
    let partial = fold(pseudo(addresses, shape.protocol, l4_bytes));
    packet[h + field..h + field + 2].copy_from_slice(&partial.to_le_bytes());
}
