//! SRTP and SRTCP (RFC 3711, RFC 7714): session keys from master keys, sealing and opening packets.
//!
//! | file | does |
//! | --- | --- |
//! | `kdf` | session keys from what a handshake gave |
//! | `agreed` | master keys that a description names: SDES, MIKEY |
//! | `receiver` | what one sender seals, by such a key |
//! | `cipher` | packets under one session key |
//! | `srtcp` | SRTCP with its index and its replay list, and RTP of an SSRC that nobody knows yet |
//! | `polyval` | GHASH by carry-less products, also for those who compute keystream ahead of time |
//!
//! Whoever seals owns the SSRC under its key, and uses each index once: nothing here can see that.

pub mod agreed;
pub mod cipher;
pub mod kdf;
#[cfg(target_arch = "x86_64")]
pub mod polyval;
pub mod receiver;
pub mod srtcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
