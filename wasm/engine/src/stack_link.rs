//! What smoltcp takes for a network card: a packet that a peer sent lies there, one that leaves is cut and sealed at once.

use crate::checksum::{finish, pseudo, sum};
use crate::counters::Counter;
use crate::device::Device;
use crate::ip::{Ip, TCP};
use crate::memory::MARGIN;
use crate::segment::{Vnet, GSO_BYTES_MAX};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use core::num::NonZeroUsize;

/// The device during one call into smoltcp.
pub struct Link<'call> {
    device: &'call mut Device,
    /// A packet to work through; empty when there is none.
    input: &'call [u8],
    /// smoltcp had something to send and the outputs had no room.
    pub is_full: bool,
}

impl<'call> Link<'call> {
    /// With at most one packet in.
    pub fn new(device: &'call mut Device, input: &'call [u8]) -> Link<'call> {
        Link { device, input, is_full: false }
    }
}

impl phy::Device for Link<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Leaving<'_>)> {
        if self.input.is_empty() {
            return None;
        }
        let packet = core::mem::take(&mut self.input);
        Some((Received(packet), Leaving { device: self.device, meta: PacketMeta::default() }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        // One super-packet with its tags, in runs of 44 segments at least.
        if !self.device.sends.has_room(GSO_BYTES_MAX + MARGIN, 8) {
            self.is_full = true;
            return None;
        }
        Some(Leaving { device: self.device, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.device.mtu;
        // The engine's own sums are several times as fast; segments were checked before.
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(GSO_BYTES_MAX);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(GSO_BYTES_MAX);
        capabilities
    }
}

/// A packet that a peer sent.
pub struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<Result, Take: FnOnce(&[u8]) -> Result>(self, take: Take) -> Result {
        take(self.0)
    }
}

/// Room for one packet that leaves.
pub struct Leaving<'a> {
    device: &'a mut Device,
    meta: PacketMeta,
}

impl phy::TxToken for Leaving<'_> {
    fn consume<Result, Write: FnOnce(&mut [u8]) -> Result>(self, bytes: usize, write: Write) -> Result {
        let packet = self.device.leaving.slice(0, bytes.min(self.device.leaving.len));
        let result = write(packet);
        self.device.send_own(packet, self.meta.segmentation_offload_size.map_or(0, |size| usize::from(size.get())));
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

impl Device {
    /// A packet of the stack, to be cut into segments of so many bytes; 0 = it is one already.
    fn send_own(&mut self, packet: &mut [u8], segment_bytes: usize) {
        let Some(ip) = Ip::parse(packet) else { return self.counters.add(Counter::BadPacket) };
        let Some(to) = self.routes.find(ip.destination(packet)) else { return self.counters.add(Counter::NoRoute) };
        if segment_bytes > 0 {
            // There is room: `transmit` has looked.
            self.super_packet(to, &Vnet::of_tcp(&ip, segment_bytes), ip, packet);
            return;
        }
        if ip.protocol == TCP {
            let (head, segment) = packet.split_at_mut(ip.header);
            segment[16..18].fill(0);
            let checksum = finish(sum(segment, pseudo(ip.addresses(head), TCP, segment.len())));
            segment[16..18].copy_from_slice(&checksum);
        }
        if ip.total > self.mtu {
            return self.split(to, &ip, packet);
        }
        self.seal(to, packet, self.mtu);
    }
}
