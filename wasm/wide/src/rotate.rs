//! Rotations by shifts: V8's revectorizer knows no shuffle of bytes.

use core::arch::wasm32::*;

/// Left by 16 bits.
#[inline(always)]
pub fn rotate16(x: v128) -> v128 {
    v128_or(u32x4_shl(x, 16), u32x4_shr(x, 16))
}

/// Left by 8 bits.
#[inline(always)]
pub fn rotate8(x: v128) -> v128 {
    v128_or(u32x4_shl(x, 8), u32x4_shr(x, 24))
}
