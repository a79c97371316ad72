//! RTCP in plaintext: what we read of it and what we write (RFC 3550 §6, RFC 4585, RFC 5104,
//! draft-alvestrand-rmcat-remb-03, draft-holmer-rmcat-transport-wide-cc-extensions-01).

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Incoming, Parsed, parse};
pub use write::{Feedback, Sent, append_answers, bye, to_publisher, to_viewer};

/// Types of extended report blocks (RFC 3611 §4.4 and §4.5).
const RECEIVER_REFERENCE_TIME: u8 = 4;
const DELAY_SINCE_LAST_RECEIVER_REPORT: u8 = 5;

/// Largest compound packet that is read, in bytes: RTCP fits into one packet of a network (RFC 3550 §6.1).
pub const MAX_COMPOUND: usize = 1500;

/// One report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// Source that the block is about.
    pub ssrc: u32,
    /// Of 256.
    pub fraction_lost: u8,
    /// Signed 24 bits on the wire.
    pub cumulative_lost: i32,
    /// Low 32 bits of the extended sequence number.
    pub highest: u32,
    /// RTP clock units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last SR; 0 if there was none.
    pub last_sr: u32,
    /// Since then, 1/65,536 s.
    pub delay_since_last_sr: u32,
}
