//! The two loops that nearly all of the cipher's time goes into, eight blocks at a time in two sets of four lanes.
//! They keep nothing on a stack and call nothing, so that they can also be a module of their own (`wasm/wide`): V8's
//! revectorizer makes one 256-bit operation of each pair x, y. For it the pairs lie next to each other in memory, all
//! loads come before all stores, and a rotation is made of what it knows (`rotate`).

use crate::rotate::{rotate16, rotate8};
use core::arch::wasm32::*;

macro_rules! rotate {
    ($x:expr, $n:literal) => {{
        let x = $x;
        v128_or(u32x4_shl(x, $n), u32x4_shr(x, 32 - $n))
    }};
}
/// A quarter round [RFC 8439 2.1] of words a, b, c, d, step by step over all sets.
macro_rules! quarter {
    ($a:literal $b:literal $c:literal $d:literal of $($x:ident)*) => {
        $($x[$a] = i32x4_add($x[$a], $x[$b]); $x[$d] = rotate16(v128_xor($x[$d], $x[$a]));)*
        $($x[$c] = i32x4_add($x[$c], $x[$d]); $x[$b] = rotate!(v128_xor($x[$b], $x[$c]), 12);)*
        $($x[$a] = i32x4_add($x[$a], $x[$b]); $x[$d] = rotate8(v128_xor($x[$d], $x[$a]));)*
        $($x[$c] = i32x4_add($x[$c], $x[$d]); $x[$b] = rotate!(v128_xor($x[$b], $x[$c]), 7);)*
    };
}
/// Ten double rounds [RFC 8439 2.3].
macro_rules! rounds {
    ($($x:ident)*) => {
        for _ in 0..10 {
            quarter!(0 4 8 12 of $($x)*);
            quarter!(1 5 9 13 of $($x)*);
            quarter!(2 6 10 14 of $($x)*);
            quarter!(3 7 11 15 of $($x)*);
            quarter!(0 5 10 15 of $($x)*);
            quarter!(1 6 11 12 of $($x)*);
            quarter!(2 7 8 13 of $($x)*);
            quarter!(3 4 9 14 of $($x)*);
        }
    };
}
/// Every other vector from `at`.
#[inline(always)]
unsafe fn load<const N: usize>(at: *const v128) -> [v128; N] {
    core::array::from_fn(|i| v128_load(at.add(2 * i)))
}
/// Both sets, pair by pair.
#[inline(always)]
unsafe fn store<const N: usize>(at: *mut v128, x: &[v128; N], y: &[v128; N]) {
    for i in 0..N {
        v128_store(at.add(2 * i), x[i]);
        v128_store(at.add(2 * i + 1), y[i]);
    }
}
#[inline(always)]
fn sum<const N: usize>(x: &[v128; N], y: &[v128; N]) -> [v128; N] {
    core::array::from_fn(|i| i32x4_add(x[i], y[i]))
}

/// Word i of the state in all lanes; a block's counter is the state's plus its lane, of eight.
#[inline(always)]
unsafe fn begin(state: *const u32, counted: v128) -> [v128; 16] {
    let mut x = core::array::from_fn(|i| v128_load32_splat(state.add(i)));
    x[12] = i32x4_add(x[12], counted);
    x
}

/// ChaCha20's block function [RFC 8439 2.3] of eight blocks: word i of blocks 0..3 at `out[2 i]`, of 4..7 behind it.
/// The state is read word by word: a vector of 256 bits that was just stored in halves would have to wait for all stores
/// before it, among them those of the packet, which may miss the caches.
///
/// # Safety
/// `state` has 16 words, `out` 32 vectors.
#[inline(never)]
pub unsafe extern "C" fn rounds8(state: *const u32, out: *mut v128) {
    let (first, second) = (i32x4(0, 1, 2, 3), i32x4(4, 5, 6, 7));
    let (mut x, mut y) = (begin(state, first), begin(state, second));
    rounds!(x y);
    store(out, &sum(&x, &begin(state, first)), &sum(&y, &begin(state, second)));
}

/// The same of blocks 0..3 alone.
///
/// # Safety
/// As `rounds8`; the second set is not written.
#[inline(never)]
pub unsafe extern "C" fn rounds4(state: *const u32, out: *mut v128) {
    let first = i32x4(0, 1, 2, 3);
    let mut x = begin(state, first);
    rounds!(x);
    for (i, &word) in sum(&x, &begin(state, first)).iter().enumerate() {
        v128_store(out.add(2 * i), word);
    }
}

/// Rows to columns: word i of four blocks.
#[inline(always)]
unsafe fn columns(p: *const u8) -> [v128; 4] {
    let row = |k: usize| v128_load(p.add(32 * k).cast());
    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
    let (t0, t1) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d));
    let (t2, t3) = (i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d));
    [
        i64x2_shuffle::<0, 2>(t0, t1),
        i64x2_shuffle::<1, 3>(t0, t1),
        i64x2_shuffle::<0, 2>(t2, t3),
        i64x2_shuffle::<1, 3>(t2, t3),
    ]
}
/// Five times each lane.
#[inline(always)]
pub fn times5(x: v128) -> v128 {
    i32x4_add(x, i32x4_shl(x, 2))
}
/// Two limbs as 16-bit halves of each lane.
#[inline(always)]
pub fn halves(low: v128, high: v128) -> v128 {
    v128_or(v128_and(low, i32x4_splat(0xffff)), i32x4_shl(high, 16))
}

/// Poly1305 [RFC 8439 2.5] over groups of eight blocks: adds a group to the ten limbs of 13 bits, multiplies by the
/// table. Blocks 0, 2, 4, 6 of a group are in the lanes of the first set, 1, 3, 5, 7 in those of the second.
/// Entry a + 8 of the table has (r_a, r_a-1) as 16-bit halves, where r_-n is 5 r_10-n; so that one dot product does the
/// four products of two limbs. With |limb of r| <= 4,096 ten products of at most 8,191 x 20,480 stay below 2^31.
///
/// # Safety
/// `limbs` has 20 vectors, `table` 36, `data` 128 bytes for each group.
#[inline(never)]
pub unsafe extern "C" fn poly8(limbs: *mut v128, table: *const v128, data: *const u8, groups: usize) {
    let (mut x, mut y): ([v128; 10], [v128; 10]) = (load(limbs), load(limbs.add(1)));
    let mut p = data;
    for _ in 0..groups {
        let (v, w) = (columns(p), columns(p.add(16)));
        add_message(&mut x, &mut y, &pieces(v), &pieces(w));
        carry(&mut x, &mut y);
        let (a, b) = (halves_of(&x), halves_of(&y));
        for i in 0..10 {
            x[i] = limb(&a, table.add(2 * i));
            y[i] = limb(&b, table.add(2 * i + 1));
        }
        p = p.add(128);
    }
    store(limbs, &x, &y);
}

/// Limb i of the product; `table` is at entry i of its set.
#[inline(always)]
unsafe fn limb(x: &[v128; 5], table: *const v128) -> v128 {
    let by = |k: usize| i32x4_dot_i16x8(x[k], v128_load(table.add(16 - 4 * k)));
    i32x4_add(i32x4_add(i32x4_add(by(0), by(1)), i32x4_add(by(2), by(3))), by(4))
}

/// Four blocks as pieces of 26 bits, the top bit of a block included.
#[inline(always)]
fn pieces([a, b, c, d]: [v128; 4]) -> [v128; 5] {
    let m = i32x4_splat(0x3ff_ffff);
    let across = |low: v128, high: v128| v128_and(v128_or(low, high), m);
    [
        v128_and(a, m),
        across(u32x4_shr(a, 26), i32x4_shl(b, 6)),
        across(u32x4_shr(b, 20), i32x4_shl(c, 12)),
        across(u32x4_shr(c, 14), i32x4_shl(d, 18)),
        v128_or(u32x4_shr(d, 8), i32x4_splat(1 << 24)),
    ]
}

#[inline(always)]
fn add_message(x: &mut [v128; 10], y: &mut [v128; 10], v: &[v128; 5], w: &[v128; 5]) {
    for i in 0..5 {
        x[2 * i] = i32x4_add(x[2 * i], v[i]);
        y[2 * i] = i32x4_add(y[2 * i], w[i]);
    }
}

/// Two chains at once; afterwards limbs are 0..8,191 but limbs 1 and 6, which may be a few hundred off.
#[inline(always)]
fn carry(x: &mut [v128; 10], y: &mut [v128; 10]) {
    macro_rules! chain {
        ($($from:literal)*) => { $( carry_from::<$from>(x); carry_from::<$from>(y); )* };
    }
    chain!(0 5 1 6 2 7 3 8 4 9 5 0);
}

/// What leaves the top counts five times at the bottom: 2^130 = 5.
#[inline(always)]
fn carry_from<const FROM: usize>(limbs: &mut [v128; 10]) {
    let over = i32x4_shr(limbs[FROM], 13);
    limbs[FROM] = v128_and(limbs[FROM], i32x4_splat(0x1fff));
    let (to, over) = if FROM == 9 { (0, times5(over)) } else { (FROM + 1, over) };
    limbs[to] = i32x4_add(limbs[to], over);
}

#[inline(always)]
fn halves_of(limbs: &[v128; 10]) -> [v128; 5] {
    core::array::from_fn(|i| halves(limbs[2 * i], limbs[2 * i + 1]))
}
