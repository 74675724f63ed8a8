//! The Internet checksum [RFC 1071], summed in memory order, so no byte swaps on either side.

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use core::arch::wasm32::{
    i32x4_add, u32x4_extadd_pairwise_u16x8, u32x4_extract_lane as lane, u32x4_splat, v128, v128_load,
};

/// Adds `data` to a running sum; an odd last byte counts as followed by zero.
#[inline]
pub fn sum(data: &[u8], start: u64) -> u64 {
    let (mut total, rest) = bulk(data);
    let mut words = rest.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_le_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last);
    }
    start + total
}

/// Whole 32-byte blocks. A lane gains at most 4 * 65,535 per block: no overflow below 512 KiB.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn bulk(data: &[u8]) -> (u64, &[u8]) {
    let mut blocks = data.chunks_exact(32);
    let (mut a, mut b) = (u32x4_splat(0), u32x4_splat(0));
    for block in &mut blocks {
        let at = block.as_ptr().cast::<v128>();
        // SAFETY: the block has 32 bytes; v128_load allows any alignment.
        let (low, high) = unsafe { (v128_load(at), v128_load(at.add(1))) };
        a = i32x4_add(a, u32x4_extadd_pairwise_u16x8(low));
        b = i32x4_add(b, u32x4_extadd_pairwise_u16x8(high));
    }
    let all = i32x4_add(a, b);
    let total = [lane::<0>(all), lane::<1>(all), lane::<2>(all), lane::<3>(all)].iter().map(|&x| u64::from(x)).sum();
    (total, blocks.remainder())
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
fn bulk(data: &[u8]) -> (u64, &[u8]) {
    (0, data)
}

/// Folds carries; the result is in memory order (use `to_le_bytes`).
#[inline]
pub fn fold(total: u64) -> u16 {
    let mut x = (total & 0xffff_ffff) + (total >> 32);
    x = (x & 0xffff) + (x >> 16);
    x = (x & 0xffff) + (x >> 16);
    x = (x & 0xffff) + (x >> 16);
    x as u16
}

/// The value to store in a checksum field.
#[inline]
pub fn finish(total: u64) -> [u8; 2] {
    (!fold(total)).to_le_bytes()
}

/// The sum over the pseudo header [RFC 9293 3.1] [RFC 8200 8.1]; `addresses` are both, as they lie in the header.
#[inline]
pub fn pseudo(addresses: &[u8], protocol: u8, l4_bytes: usize) -> u64 {
    let length = l4_bytes as u32;
    sum(addresses, 0)
        + u64::from(u16::from(protocol).to_be())
        + u64::from((length as u16).to_be())
        + u64::from(((length >> 16) as u16).to_be())
}

/// Replaces a 16-bit word (memory order) under an existing checksum [RFC 1624 eqn. 3].
#[inline]
pub fn replace(field: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let total = u64::from(!u16::from_le_bytes(field))
        + u64::from(!u16::from_le_bytes(old))
        + u64::from(u16::from_le_bytes(new));
    finish(total)
}
