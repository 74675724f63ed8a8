//! What happened to packets that went nowhere, and to handshakes. The host knows the names in this order.

/// Index into the counters; append only, the host lists the same names in the same order.
#[derive(Clone, Copy)]
pub enum Counter {
    /// Not a WireGuard message: wrong type or size.
    Malformed,
    /// mac1 or mac2 wrong: nobody who knows our key.
    BadMac,
    UnknownIndex,
    UnknownKey,
    /// Noise or tag failure.
    Unauthentic,
    /// Counter seen before or too old.
    Replayed,
    CookiesSent,
    CookiesReceived,
    /// Handshakes dropped by the per-source limit under load.
    SourceLimited,
    HandshakesCompleted,
    InitiationsSent,
    /// Inner packet is not a sane IP packet.
    BadPacket,
    /// Inner source is not inside the sender's allowed prefixes.
    Spoofed,
    NoRoute,
    NoEndpoint,
    StagingFull,
    ExpiredHops,
    /// Multicast, broadcast, link-local, loopback, unspecified, source-routed.
    ForbiddenAddress,
    /// To a gateway address, but nothing listens.
    NotServed,
    EchoAnswered,
    /// Back to the peer it came from.
    Hairpin,
    /// Inputs lost because the host did not drain before the next burst.
    NotDrained,
    Roamed,
    /// Our own outer datagram came out of the TUN device: its route leads into the tunnel.
    Looped,
    /// To a gateway's service, from a member or from all members together, faster than the host shall take them.
    LocalLimited,
    /// Larger than the tunnel carries, and not to be split.
    TooBig,
    /// A SYN, from a member or while all together have too many connections to a gateway's service.
    ConnectionsLimited,
}

/// Number of counters.
pub const COUNT: usize = Counter::ConnectionsLimited as usize + 1;

/// All counters; the host reads them in place.
pub struct Counters(pub [u64; COUNT]);

impl Counters {
    /// Counts one.
    pub fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }
}
