//! Rotations by whole bytes are one shuffle on 128-bit vectors.

use core::arch::wasm32::*;

/// Left by 16 bits.
#[inline(always)]
pub fn rotate16(x: v128) -> v128 {
    i8x16_swizzle(x, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13))
}

/// Left by 8 bits.
#[inline(always)]
pub fn rotate8(x: v128) -> v128 {
    i8x16_swizzle(x, i8x16(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14))
}
