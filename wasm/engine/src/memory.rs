//! The buffers host and engine share. They are allocated once and never move, as the memory never grows.

use std::alloc::{alloc, handle_alloc_error, Layout};

/// Cache line; also keeps descriptors on their natural alignment.
const ALIGN: usize = 64;
/// Largest IP packet or UDP payload [RFC 791 3.1].
pub const PACKET_MAX: usize = 65_535;
/// virtio_net_hdr without num_buffers [virtio 1.2, 5.1.6].
pub const VNET_BYTES: usize = 10;
/// Room kept behind every write position: one largest datagram with its headers and tag.
pub const MARGIN: usize = PACKET_MAX + 257;

/// A piece of linear memory that lives as long as the instance.
#[derive(Clone, Copy)]
pub struct Region {
    base: *mut u8,
    pub len: usize,
}

impl Region {
    /// Not zeroed: untouched pages cost the host no memory.
    pub fn new(len: usize) -> Region {
        let layout = Layout::from_size_align(len.max(ALIGN), ALIGN).expect("a region's size fits");
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout)
        }
        Region { base, len }
    }

    /// Where it lies in linear memory, for the host.
    pub fn offset(&self) -> u32 {
        self.base as usize as u32
    }

    /// Borrows `len` bytes at `at`. Callers hold no other view of these bytes.
    pub fn slice(&self, at: usize, len: usize) -> &'static mut [u8] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: in bounds by the assertion; the region is never freed.
        unsafe { core::slice::from_raw_parts_mut(self.base.add(at), len) }
    }
}

/// 16 words of 32 bits, the unit in which bursts cross the border.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    /// Byte offset of the data in linear memory.
    pub offset: u32,
    pub bytes: u32,
    /// Segment size of an equal-stride run; 0 = one datagram.
    pub segment: u32,
    pub peer: u32,
    /// 16 (sockaddr_in) or 28 (sockaddr_in6).
    pub address_bytes: u32,
    pub address: [u32; 7],
    pub reserved: [u32; 4],
}

impl Descriptor {
    pub const BYTES: usize = 64;
    pub const EMPTY: Descriptor =
        Descriptor { offset: 0, bytes: 0, segment: 0, peer: 0, address_bytes: 0, address: [0; 7], reserved: [0; 4] };
}

/// A fixed array of descriptors.
#[derive(Clone, Copy)]
pub struct Descriptors {
    region: Region,
    pub capacity: usize,
}

impl Descriptors {
    /// All empty.
    pub fn new(capacity: usize) -> Descriptors {
        let all = Descriptors { region: Region::new(capacity * Descriptor::BYTES), capacity };
        for at in 0..capacity {
            all.set(at, Descriptor::EMPTY);
        }
        all
    }

    /// Where descriptor 0 lies in linear memory.
    pub fn offset(&self) -> u32 {
        self.region.offset()
    }

    /// A copy of descriptor `at`.
    pub fn get(&self, at: usize) -> Descriptor {
        let bytes = self.region.slice(at * Descriptor::BYTES, Descriptor::BYTES);
        // SAFETY: 64 aligned bytes of plain integers.
        unsafe { *bytes.as_ptr().cast::<Descriptor>() }
    }

    /// Overwrites descriptor `at`.
    pub fn set(&self, at: usize, value: Descriptor) {
        let bytes = self.region.slice(at * Descriptor::BYTES, Descriptor::BYTES);
        // SAFETY: as in `get`.
        unsafe { *bytes.as_mut_ptr().cast::<Descriptor>() = value }
    }
}

/// Slots the host reads into; each descriptor points to its own slot for good.
#[derive(Clone, Copy)]
pub struct InputRing {
    pub descriptors: Descriptors,
    slots: Region,
    pub slot_bytes: usize,
}

impl InputRing {
    /// Descriptors with their slots.
    pub fn new(capacity: usize, slot_bytes: usize) -> InputRing {
        let ring = InputRing {
            descriptors: Descriptors::new(capacity),
            slots: Region::new(capacity * slot_bytes),
            slot_bytes,
        };
        for at in 0..capacity {
            let offset = ring.slots.offset() + (at * slot_bytes) as u32;
            ring.descriptors.set(at, Descriptor { offset, ..Descriptor::EMPTY });
        }
        ring
    }

    /// What the host put into slot `at`; a length beyond the slot is cut.
    pub fn slot(&self, at: usize) -> (Descriptor, &'static mut [u8]) {
        let descriptor = self.descriptors.get(at);
        let bytes = (descriptor.bytes as usize).min(self.slot_bytes);
        (descriptor, self.slots.slice(at * self.slot_bytes, bytes))
    }
}
