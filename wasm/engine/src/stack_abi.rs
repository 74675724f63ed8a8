//! What the host calls for its sockets. Numbers only; addresses, datagrams and bytes of connections lie in the control region:
//! [0] an address, [20] a port, [64] the bytes. Refusals are -1.

use crate::abi::{addresses, call, device};
use crate::device::Device;
use crate::ip::Address;
use crate::memory::PACKET_MAX;
use crate::stack::{from_ip, Stack};

const PORT_AT: usize = 20;
const BYTES_AT: usize = 64;
/// [RFC 768] What an IPv4 packet has room for; the same in IPv6.
const DATAGRAM_MAX: usize = PACKET_MAX - 28;
const REFUSED: i32 = -1;

fn act<Result>(refused: Result, now_ms: f64, act: impl FnOnce(&mut Stack, &mut Device) -> Result) -> Result {
    let mut result = refused;
    call(now_ms, |device| result = device.with_stack(act));
    result
}

fn target(device: &Device) -> (Address, u16) {
    let port = device.control.slice(PORT_AT, 2);
    (addresses(device, 0, 1)[0].0, u16::from_le_bytes([port[0], port[1]]))
}

/// Takes connections to a port of the own addresses, or no more; those that are there stay.
#[no_mangle]
pub extern "C" fn stack_listen(port: u32, listens: u32) {
    let Some(device) = device() else { return };
    device.with_stack(|stack, _| {
        stack.listening.retain(|known| u32::from(*known) != port);
        if listens == 1 {
            stack.listening.push(port as u16);
        }
    });
}

/// The id of a new connection to the address and port.
#[no_mangle]
pub extern "C" fn stack_connect(now_ms: f64) -> i32 {
    act(REFUSED, now_ms, |stack, device| {
        let (to, port) = target(device);
        stack.connect(&device.gateway.addresses, to, port).map_or(REFUSED, |id| id as i32)
    })
}

/// The id of a new socket for datagrams; 0 = at any port.
#[no_mangle]
pub extern "C" fn stack_udp(port: u32) -> i32 {
    let Some(device) = device() else { return REFUSED };
    device.with_stack(|stack, _| stack.open_udp(port as u16).map_or(REFUSED, |id| id as i32))
}

/// The id of a new socket for echo requests.
#[no_mangle]
pub extern "C" fn stack_echo() -> i32 {
    let Some(device) = device() else { return REFUSED };
    device.with_stack(|stack, _| stack.open_echo().map_or(REFUSED, |id| id as i32))
}

/// The own port of a socket for datagrams, or the identifier of one for echo requests.
#[no_mangle]
pub extern "C" fn stack_port(id: u32) -> i32 {
    let Some(device) = device() else { return REFUSED };
    device.with_stack(|stack, _| {
        stack.entries.iter().find(|entry| entry.id == id).map_or(REFUSED, |entry| i32::from(entry.port))
    })
}

/// How many of the bytes the connection took.
#[no_mangle]
pub extern "C" fn stack_send(id: u32, bytes: u32, now_ms: f64) -> i32 {
    act(REFUSED, now_ms, |stack, device| {
        let bytes = device.control.slice(BYTES_AT, bytes as usize);
        stack.send(id, bytes).map_or(REFUSED, |taken| taken as i32)
    })
}

/// How many bytes of the connection lie there, `most` at most.
#[no_mangle]
pub extern "C" fn stack_receive(id: u32, most: u32, now_ms: f64) -> i32 {
    act(0, now_ms, |stack, device| {
        let most = (most as usize).min(device.control.len - BYTES_AT);
        stack.take(id, device.control.slice(BYTES_AT, most)) as i32
    })
}

/// Sends a datagram; for echo requests the port is the sequence number.
#[no_mangle]
pub extern "C" fn stack_send_to(id: u32, bytes: u32, now_ms: f64) -> i32 {
    act(REFUSED, now_ms, |stack, device| {
        let to = target(device);
        let bytes = device.control.slice(BYTES_AT, bytes as usize);
        let fits = bytes.len() <= DATAGRAM_MAX;
        let sent = fits && stack.send_to(id, &device.gateway.addresses, to, bytes);
        if sent {
            0
        } else {
            REFUSED
        }
    })
}

/// How many bytes of the next datagram lie there, with the address and port it came from.
#[no_mangle]
pub extern "C" fn stack_receive_from(id: u32) -> i32 {
    let Some(device) = device() else { return REFUSED };
    device.with_stack(|stack, device| {
        let room = device.control.slice(BYTES_AT, device.control.len - BYTES_AT);
        let Some((bytes, from)) = stack.take_from(id, room) else { return REFUSED };
        let address = from_ip(from.addr);
        let record = device.control.slice(0, PORT_AT + 2);
        record[0] = if address.v6 { 6 } else { 4 };
        let raw = address.bits.to_be_bytes();
        if address.v6 {
            record[4..20].copy_from_slice(&raw);
        } else {
            record[4..8].copy_from_slice(&raw[12..]);
        }
        record[PORT_AT..].copy_from_slice(&from.port.to_le_bytes());
        bytes as i32
    })
}

/// The host sends no more on a connection.
#[no_mangle]
pub extern "C" fn stack_end(id: u32, now_ms: f64) {
    act((), now_ms, |stack, _| stack.end(id));
}

/// The host has done with a socket; 1 = a connection is broken off.
#[no_mangle]
pub extern "C" fn stack_release(id: u32, breaks: u32, now_ms: f64) {
    act((), now_ms, |stack, device| stack.release(id, breaks == 1, device.clock.now_ms));
}
