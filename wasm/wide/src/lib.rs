//! The cipher's two loops as a module over the engine's memory, for V8's revectorizer. It has neither data nor a stack,
//! so it needs no place in that memory. Without the revectorizer it is slower than the engine's own loops.
#![no_std]

#[path = "../../ring-simd/src/kernels.rs"]
mod kernels;
mod rotate;

use core::arch::wasm32::v128;

/// See `kernels::rounds8`.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn rounds8(state: *const u32, out: *mut v128) {
    kernels::rounds8(state, out)
}

/// See `kernels::poly8`.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn poly8(limbs: *mut v128, table: *const v128, data: *const u8, groups: usize) {
    kernels::poly8(limbs, table, data, groups)
}

/// Half of what `rounds8` does, as nothing can be paired in it: where pairs are fused it takes nearly as long.
///
/// # Safety
/// `state` has 16 words, `out` 32 vectors.
#[no_mangle]
pub unsafe extern "C" fn rounds4(state: *const u32, out: *mut v128) {
    kernels::rounds4(state, out)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
