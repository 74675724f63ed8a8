//! What the host calls. Numbers only; larger arguments and answers lie in the control region.
//! Control region: [0] key, [32] preshared key, [64] sockaddr length and 28 bytes of sockaddr, [96] prefixes.

use crate::aead;
use crate::counters::COUNT;
use crate::device::{Device, Kind, PeerSettings, Refused};
use crate::endpoint::Endpoint;
use crate::ip::{v4, v6, Address};
use crate::stack::NEVER;
use crate::work::Source;
use core::ptr::addr_of_mut;
use ring::choice::{set_kernels as set_kernels_to, Kernels};

const PRESHARED_AT: usize = 32;
const ENDPOINT_AT: usize = 64;
const PREFIXES_AT: usize = 96;
/// Family (4 or 6), length, two bytes unused, 16 bytes of address.
const ADDRESS_BYTES: usize = 20;
/// Additional data and text of the known-answer calls.
const ADDITIONAL_AT: usize = 64;
const TEXT_AT: usize = 4_096;
/// add_peer's refusals.
const FULL: i32 = -1;
const DUPLICATE: i32 = -2;
const BAD_KEY: i32 = -3;

static mut DEVICE: Option<Device> = None;
/// Of the last call: sends, device writes, locals, more, handshakes, events, milliseconds until the stack wants `drain`.
static mut RESULT: [u32; 7] = [0; 7];
static mut LAYOUT: [u32; 16] = [0; 16];

/// The device; every export but `init` is a no-op before `init`.
pub fn device() -> Option<&'static mut Device> {
    // SAFETY: one thread, and no export calls another, so this is the only reference.
    unsafe { (*addr_of_mut!(DEVICE)).as_mut() }
}

/// Ends a call that may have produced outputs.
fn publish(device: &mut Device, more: bool) {
    let sends = device.sends.count as u32;
    let (writes, locals) = (device.merge.count as u32, device.locals.count as u32);
    let stack = device.stack.as_deref();
    let events = stack.map_or(0, |stack| stack.event_count as u32);
    let wait = stack.map_or(NEVER, |stack| stack.wait_ms(device.clock.now_ms));
    // SAFETY: as in `device`.
    unsafe { *addr_of_mut!(RESULT) = [sends, writes, locals, u32::from(more), device.handshakes, events, wait] }
}

/// Makes the device from its private key: a member (0), a hub (1) or a member without a TUN device (2). Answers where the
/// layout table is.
#[no_mangle]
pub extern "C" fn init(kind: u32, peers_max: u32, key: &[u8; 32]) -> *const u32 {
    let kind = match kind {
        1 => Kind::Hub,
        2 => Kind::Netstack,
        _ => Kind::Member,
    };
    let made = Device::new(kind, *key, peers_max as usize);
    let reads = made
        .device_reads
        .map_or([0; 3], |ring| [ring.descriptors.offset(), ring.descriptors.capacity as u32, ring.slot_bytes as u32]);
    let (received, sends, writes, locals) =
        (made.received, made.sends.descriptors, made.merge.descriptors, made.locals.descriptors);
    // SAFETY: as in `device`; the device lives in its static from here on.
    unsafe {
        let placed = (*addr_of_mut!(DEVICE)).insert(made);
        *addr_of_mut!(LAYOUT) = [
            placed.control.offset(),
            received.descriptors.offset(),
            received.descriptors.capacity as u32,
            received.slot_bytes as u32,
            reads[0],
            reads[1],
            reads[2],
            sends.offset(),
            sends.capacity as u32,
            writes.offset(),
            writes.capacity as u32,
            locals.offset(),
            locals.capacity as u32,
            addr_of_mut!(RESULT) as u32,
            placed.counters.0.as_ptr() as u32,
            COUNT as u32,
        ];
        addr_of_mut!(LAYOUT).cast()
    }
}

/// 64 bytes for the private key before `init`; the host wipes them afterwards.
#[no_mangle]
pub extern "C" fn key_space() -> *const u8 {
    static mut KEY: [u8; 64] = [0; 64];
    addr_of_mut!(KEY) as *const u8
}

/// The new peer's handle, or a refusal below zero.
#[no_mangle]
pub extern "C" fn add_peer(preshared: u32) -> i32 {
    let Some(device) = device() else { return FULL };
    let preshared = (preshared == 1).then(|| bytes32(device, PRESHARED_AT));
    match device.add_peer(bytes32(device, 0), preshared) {
        Ok(at) => at as i32,
        Err(Refused::Full) => FULL,
        Err(Refused::Duplicate) => DUPLICATE,
        Err(Refused::BadKey) => BAD_KEY,
    }
}

/// 1 when done, 0 when the prefixes do not fit or the peer is gone. An MTU of 0 is none.
#[no_mangle]
pub extern "C" fn set_peer(at: u32, keepalive_seconds: u32, mtu: u32, prefixes: u32) -> u32 {
    let Some(device) = device() else { return 0 };
    let words = device.control.slice(ENDPOINT_AT, 32);
    let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
    let endpoint = Endpoint::from_words(word(0), &core::array::from_fn(|i| word(4 + 4 * i)));
    let prefixes = addresses(device, PREFIXES_AT, prefixes as usize);
    u32::from(device.set_peer(at, PeerSettings { keepalive_seconds, mtu: limit(mtu), endpoint, prefixes }))
}

/// A handle nobody has is fine.
#[no_mangle]
pub extern "C" fn remove_peer(at: u32) {
    if let Some(device) = device() {
        device.remove_peer(at);
    }
}

/// The handle of the peer with the key in the control region, or -1.
#[no_mangle]
pub extern "C" fn peer_of() -> i32 {
    let Some(device) = device() else { return -1 };
    device.peers.find(&bytes32(device, 0)).map_or(-1, |at| at as i32)
}

/// Addresses, then ports as 16-bit words.
#[no_mangle]
pub extern "C" fn set_gateways(count: u32, ports: u32) {
    let Some(device) = device() else { return };
    let found = addresses(device, 0, count as usize);
    let raw = device.control.slice(found.len() * ADDRESS_BYTES, 2 * ports as usize);
    device.gateway.udp_ports = raw.chunks_exact(2).map(|port| u16::from_le_bytes([port[0], port[1]])).collect();
    device.gateway.addresses = found.into_iter().map(|(address, _)| address).collect();
    if let Some(mut stack) = device.stack.take() {
        stack.set_addresses(&device.gateway.addresses);
        device.stack = Some(stack);
    }
}

/// Which protocols may be merged into super-packets.
#[no_mangle]
pub extern "C" fn set_merging(tcp: u32, udp: u32) {
    if let Some(device) = device() {
        (device.merge.tcp, device.merge.udp) = (tcp == 1, udp == 1);
    }
}

/// Largest packet of the TUN device.
#[no_mangle]
pub extern "C" fn set_mtu(bytes: u32) {
    if let Some(device) = device() {
        (device.mtu, device.limit) = (bytes as usize, limit(bytes));
        if let Some(mut stack) = device.stack.take() {
            stack.renew(device);
            device.stack = Some(stack);
        }
    }
}

fn limit(mtu: u32) -> usize {
    if mtu == 0 {
        usize::MAX
    } else {
        mtu as usize
    }
}

/// Starts a handshake, also when one is in flight.
#[no_mangle]
pub extern "C" fn handshake(at: u32, now_ms: f64) {
    call(now_ms, |device| device.initiate(at, true));
}

/// `count` descriptors of the receive ring are filled.
#[no_mangle]
pub extern "C" fn from_network(count: u32, now_ms: f64) {
    call(now_ms, |device| device.accept(Source::Network, count as usize));
}

/// `count` descriptors of the device ring are filled.
#[no_mangle]
pub extern "C" fn from_device(count: u32, now_ms: f64) {
    call(now_ms, |device| device.accept(Source::Device, count as usize));
}

/// The packet lies in the control region.
#[no_mangle]
pub extern "C" fn from_local(bytes: u32, now_ms: f64) {
    call(now_ms, |device| device.route_local(bytes as usize));
}

/// Goes on where the last call ran out of room.
#[no_mangle]
pub extern "C" fn drain(now_ms: f64) {
    call(now_ms, |_| {});
}

/// All peers' timers.
#[no_mangle]
pub extern "C" fn tick(now_ms: f64) {
    call(now_ms, Device::start_tick);
}

/// One call that moves packets.
pub fn call(now_ms: f64, enter: impl FnOnce(&mut Device)) {
    let Some(device) = device() else { return };
    device.begin(now_ms);
    enter(device);
    let more = device.run();
    publish(device, more);
}

/// Five doubles (age ms, rtt ms, received, sent, spoofed; -1 = unknown), sockaddr length, sockaddr. 0 = no such peer.
#[no_mangle]
pub extern "C" fn stats(at: u32) -> u32 {
    let Some(device) = device() else { return 0 };
    let out = device.control.slice(0, 72);
    let Some(peer) = device.peers.get(at) else { return 0 };
    let (age, _, _, _, rtt) = peer.tunnel.made().map_or((None, 0, 0, 0.0, None), |tunnel| tunnel.stats());
    let numbers = [
        age.map_or(-1.0, |age| age.as_secs_f64() * 1000.0),
        rtt.map_or(-1.0, f64::from),
        peer.received_bytes as f64,
        peer.sent_bytes as f64,
        peer.spoofed as f64,
    ];
    for (to, number) in out.chunks_exact_mut(8).zip(numbers) {
        to.copy_from_slice(&number.to_le_bytes());
    }
    let endpoint = peer.endpoint.unwrap_or(Endpoint { bytes: 0, words: [0; 7] });
    out[40..44].copy_from_slice(&endpoint.bytes.to_le_bytes());
    for (to, word) in out[44..].chunks_exact_mut(4).zip(endpoint.words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    1
}

/// Takes the cipher's loops from the function table: `rounds8` and `poly8` of the module below, made by the host.
#[no_mangle]
pub extern "C" fn set_kernels(rounds8: usize, poly8: usize) {
    // SAFETY: on this target a function pointer is an index of the table; a call of another signature traps.
    unsafe { set_kernels_to(Kernels { rounds8: core::mem::transmute(rounds8), poly8: core::mem::transmute(poly8) }) }
}

/// The cipher's loops as a module of its own, for hosts that compile it better than this one.
#[used]
#[link_section = "cipher-wide"]
static CIPHER_WIDE: [u8; include_bytes!(env!("CIPHER_WIDE")).len()] = *include_bytes!(env!("CIPHER_WIDE"));

/// Known answers: key at 0, nonce at 32, additional data at 64, text and tag at 4,096; sealed in place.
#[no_mangle]
pub extern "C" fn aead_seal(additional: u32, text: u32) {
    let Some(device) = device() else { return };
    let (nonce, data, text) = aead_parts(device, additional, text);
    aead::seal(&bytes32(device, 0), nonce, data, text);
}

/// 1 when the tag is right; the text then lies there in plain.
#[no_mangle]
pub extern "C" fn aead_open(additional: u32, text: u32) -> u32 {
    let Some(device) = device() else { return 0 };
    let (nonce, data, text) = aead_parts(device, additional, text);
    u32::from(aead::open(&bytes32(device, 0), nonce, data, text))
}

fn aead_parts(device: &Device, additional: u32, text: u32) -> ([u8; 12], &'static [u8], &'static mut [u8]) {
    let nonce = core::array::from_fn(|i| device.control.slice(32 + i, 1)[0]);
    let data = device.control.slice(ADDITIONAL_AT, additional as usize);
    (nonce, data, device.control.slice(TEXT_AT, text as usize))
}

fn bytes32(device: &Device, at: usize) -> [u8; 32] {
    let mut all = [0; 32];
    all.copy_from_slice(device.control.slice(at, 32));
    all
}

/// Address records of the control region.
pub fn addresses(device: &Device, at: usize, count: usize) -> Vec<(Address, u8)> {
    let raw = device.control.slice(at, count * ADDRESS_BYTES);
    raw.chunks_exact(ADDRESS_BYTES)
        .map(|one| (if one[0] == 6 { v6(&one[4..]) } else { v4(&one[4..]) }, one[1]))
        .collect()
}

/// Where the events of the last call lie.
#[no_mangle]
pub extern "C" fn stack_events() -> u32 {
    device().map_or(0, |device| device.with_stack(|stack, _| stack.events.offset()))
}
