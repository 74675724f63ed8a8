//! Which loops the cipher runs: its own, or those of a module the host made and tested.

use crate::kernels;
use core::arch::wasm32::v128;
use core::ptr::addr_of_mut;

/// The loops, as in `kernels`.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub rounds8: unsafe extern "C" fn(*const u32, *mut v128),
    pub poly8: unsafe extern "C" fn(*mut v128, *const v128, *const u8, usize),
}

static mut KERNELS: Kernels = Kernels { rounds8: kernels::rounds8, poly8: kernels::poly8 };

/// The loops in use.
#[inline(always)]
pub fn kernels() -> Kernels {
    // SAFETY: one thread.
    unsafe { *addr_of_mut!(KERNELS) }
}

/// Replaces the loops.
///
/// # Safety
/// They do what those of `kernels` do.
pub unsafe fn set_kernels(other: Kernels) {
    *addr_of_mut!(KERNELS) = other;
}
