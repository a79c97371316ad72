//! What is to be computed: for which key, and into which entries.

use forwarder_common::{
    ExtendedSeq, SessionKey, gf128,
    keystream::{Entry, STEP},
    nonce,
};

/// Packets that one call of a fast backend fills together.
pub(super) const BATCH: usize = 4;

/// A session key as the producer uses it. Wiped on drop.
pub struct Key {
    pub(super) session: Box<SessionKey>,
    /// H for the fast backends: times x, in the form of POLYVAL (RFC 8452 §3), which is GHASH's field
    /// with the bytes reversed, so that a carry-less product needs no shift.
    pub(super) h: u128,
    /// The same of H⁴, H³, H² and H.
    pub(super) powers: [u128; STEP],
}

impl Key {
    /// Takes over an expanded session key.
    pub fn new(session: &SessionKey) -> Self {
        let mut power = gf128::from_bytes(ONE);
        let mut powers = [0; STEP];
        for place in powers.iter_mut().rev() {
            power = gf128::multiply(&session.ghash, power);
            *place = times_x(u128::from_be_bytes(gf128::to_bytes(power)));
        }
        Self { session: Box::new(*session), h: powers[STEP - 1], powers }
    }
}

/// 1 in GHASH's order of bits.
const ONE: [u8; 16] = {
    let mut one = [0; 16];
    one[0] = 0x80;
    one
};

/// x · h modulo POLYVAL's x^128 + x^127 + x^126 + x^121 + 1.
const fn times_x(h: u128) -> u128 {
    let carry = h >> 127;
    (h << 1) ^ (carry * (0xc2 << 120 | 1))
}

impl Drop for Key {
    fn drop(&mut self) {
        self.session.wipe();
        // SAFETY: a valid, exclusive place.
        unsafe {
            core::ptr::write_volatile(&raw mut self.h, 0);
            core::ptr::write_volatile(&raw mut self.powers, [0; STEP]);
        }
    }
}

/// An entry to fill.
#[derive(Clone, Copy)]
pub struct Job {
    /// The packet that the entry will serve.
    pub index: ExtendedSeq,
    /// The producer has begun it, so nobody else reads or writes it.
    pub entry: *mut Entry,
}

/// The first 12 bytes of the counter blocks of a packet.
#[cfg(target_arch = "x86_64")]
pub(super) fn nonce_bytes(key: &Key, ssrc: u32, index: ExtendedSeq) -> [u8; 16] {
    let mut block = [0; 16];
    block[..12].copy_from_slice(&nonce::rtp(key.session.salt, ssrc, index));
    block
}
