//! Names of sessions, and others that nobody guesses.

use ring::rand::{SecureRandom, SystemRandom};

/// Names a session for the life of the process.
pub(super) type Key = u64;

/// Random bytes.
#[expect(clippy::expect_used, reason = "without random numbers no session is safe; nothing may go on")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// `2 * N` hexadecimal digits.
pub(super) fn random_hex<const N: usize>() -> String {
    random::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random SSRC, not 0.
pub(super) fn random_ssrc() -> u32 {
    u32::from_be_bytes(random()).max(1)
}
