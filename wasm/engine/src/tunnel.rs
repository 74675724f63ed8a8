//! boringtun's tunnel of one peer, made by the first message that needs it: its Diffie-Hellman of the static keys is most
//! of what a peer costs. A peer that is only configured is an entry in a table.

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::Tunn;
use boringtun::x25519::{PublicKey, StaticSecret};
use std::sync::Arc;

/// What every tunnel of a device shares.
pub struct Identity {
    pub secret: StaticSecret,
    pub public: PublicKey,
    /// The peers' own limiter: never under load, as the device's has counted the message already.
    quiet: Arc<RateLimiter>,
}

impl Identity {
    /// Of a private key.
    pub fn new(secret: [u8; 32]) -> Identity {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Identity { quiet: Arc::new(RateLimiter::new(&public, u64::MAX)), secret, public }
    }
}

/// A tunnel, or what it takes to make it.
pub struct Tunnel {
    pub key: [u8; 32],
    preshared: Option<[u8; 32]>,
    /// The peer's handle, which is the upper 24 bits of its receiver indices.
    at: u32,
    made: Option<Box<Tunn>>,
}

impl Tunnel {
    /// Not made.
    pub fn new(at: u32, key: [u8; 32], preshared: Option<[u8; 32]>) -> Tunnel {
        Tunnel { key, preshared, at, made: None }
    }

    /// The tunnel if it was ever needed. Without it there is no session, no handshake and no cookie to take.
    #[inline]
    pub fn made(&mut self) -> Option<&mut Tunn> {
        self.made.as_deref_mut()
    }

    /// The tunnel, made when it is not there.
    #[inline]
    pub fn get(&mut self, own: &Identity) -> &mut Tunn {
        let Tunnel { key, preshared, at, made } = self;
        made.get_or_insert_with(|| make(own, *key, *preshared, *at))
    }
}

#[cold]
fn make(own: &Identity, key: [u8; 32], preshared: Option<[u8; 32]>, at: u32) -> Box<Tunn> {
    let limiter = Some(Arc::clone(&own.quiet));
    Box::new(Tunn::new(own.secret.clone(), PublicKey::from(key), preshared, None, at, limiter))
}
