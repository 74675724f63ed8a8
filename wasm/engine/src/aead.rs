//! Raw ChaCha20-Poly1305 [RFC 8439 2.8] for the known-answer tests; the data path does not come through here.

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};

const TAG_BYTES: usize = 16;

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a key"))
}

/// Encrypts all but the last 16 bytes of `text` in place and puts the tag there.
pub fn seal(secret: &[u8; 32], nonce: [u8; 12], additional: &[u8], text: &mut [u8]) {
    let (plain, tag) = text.split_at_mut(text.len() - TAG_BYTES);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed = key(secret).seal_in_place_separate_tag(nonce, Aad::from(additional), plain);
    tag.copy_from_slice(sealed.expect("sealing cannot fail").as_ref());
}

/// Decrypts in place; false when the tag is wrong.
pub fn open(secret: &[u8; 32], nonce: [u8; 12], additional: &[u8], text: &mut [u8]) -> bool {
    key(secret).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(additional), text).is_ok()
}
