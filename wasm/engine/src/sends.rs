//! Datagrams for the network, laid out as equal-stride runs that go out with one UDP_SEGMENT send each.

use crate::endpoint::Endpoint;
use crate::memory::{Descriptor, Descriptors, Region, MARGIN};

/// Linux refuses more (UDP_MAX_SEGMENTS was 64 before 6.9).
const SEGMENTS_MAX: u32 = 64;
/// Ours: below 65,535 less the outer headers, for IPv4 and IPv6.
const RUN_BYTES_MAX: u32 = 65_000;
/// The peer word of an answer to somebody who is no peer (yet): a cookie reply.
pub const NO_PEER: u32 = u32::MAX;

/// The output towards the network.
pub struct Sends {
    pub descriptors: Descriptors,
    region: Region,
    /// Where the next datagram goes.
    end: usize,
    pub count: usize,
    run: Option<Run>,
}

/// The run that may still grow; it is the last descriptor.
struct Run {
    peer: u32,
    stride: u32,
    bytes: u32,
    segments: u32,
}

impl Sends {
    /// Room for `bytes` in `descriptors` runs.
    pub fn new(descriptors: usize, bytes: usize) -> Sends {
        let region = Region::new(bytes + MARGIN);
        Sends { descriptors: Descriptors::new(descriptors), region, end: 0, count: 0, run: None }
    }

    /// Takes the outputs of the last call back.
    pub fn clear(&mut self) {
        (self.end, self.count, self.run) = (0, 0, None);
    }

    /// Room for `bytes` more in at most `runs` more descriptors.
    pub fn has_room(&self, bytes: usize, runs: usize) -> bool {
        self.end + bytes + MARGIN <= self.region.len && self.count + runs <= self.descriptors.capacity
    }

    /// Bytes a burst may fill at most.
    pub fn capacity(&self) -> usize {
        self.region.len - MARGIN
    }

    /// Where to write the next datagram, of at most `MARGIN` bytes.
    #[inline]
    pub fn space(&self) -> &'static mut [u8] {
        self.region.slice(self.end, MARGIN)
    }

    /// Takes over the `bytes` just written at `space()`.
    #[inline]
    pub fn push(&mut self, peer: u32, endpoint: &Endpoint, bytes: usize) {
        let length = bytes as u32;
        if !self.grow(peer, length) {
            self.start(peer, endpoint, length);
        }
        self.end += bytes;
    }

    #[inline]
    fn grow(&mut self, peer: u32, bytes: u32) -> bool {
        let Some(run) = self.run.as_mut() else { return false };
        let fits = run.segments < SEGMENTS_MAX && run.bytes + bytes <= RUN_BYTES_MAX;
        if run.peer != peer || bytes > run.stride || !fits {
            return false;
        }
        run.segments += 1;
        run.bytes += bytes;
        let (stride, total, ended) = (run.stride, run.bytes, bytes < run.stride);
        let at = self.count - 1;
        self.descriptors.set(at, Descriptor { bytes: total, segment: stride, ..self.descriptors.get(at) });
        if ended {
            self.run = None;
        }
        true
    }

    fn start(&mut self, peer: u32, endpoint: &Endpoint, bytes: u32) {
        let offset = self.region.offset() + self.end as u32;
        let address_bytes = endpoint.bytes;
        let run = Descriptor { offset, bytes, peer, address_bytes, address: endpoint.words, ..Descriptor::EMPTY };
        self.descriptors.set(self.count, run);
        self.count += 1;
        self.run = (peer != NO_PEER).then_some(Run { peer, stride: bytes, bytes, segments: 1 });
    }
}
