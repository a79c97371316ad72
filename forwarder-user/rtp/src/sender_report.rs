//! Sender reports of sources (RFC 3550 §6.4.1), which come in the clear.

/// A source's clock at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    /// Sender of the compound packet, on the source's side: viewers know the track by another one.
    pub ssrc: u32,
    /// The source's wall clock, NTP format.
    pub ntp: u64,
    /// The same moment on its RTP clock.
    pub rtp: u32,
}

/// The sender report that a compound packet begins with. `None`: another packet, or none.
pub fn first(bytes: &[u8]) -> Option<SenderReport> {
    const SENDER_REPORT: u8 = 200;
    let report: &[u8; 20] = bytes.first_chunk()?;
    if report[0] >> 6 != 2 || report[1] != SENDER_REPORT {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
    let ntp = u64::from(word(8)) << 32 | u64::from(word(12));
    // 0: the source has no clock (§6.4.1).
    (ntp != 0).then(|| SenderReport { ssrc: word(4), ntp, rtp: word(16) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sender_reports_and_nothing_else() {
        let mut bytes = vec![0x80, 200, 0, 6, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0];
        bytes.extend([0; 8]);
        let report = SenderReport { ssrc: 9, ntp: 0x0102_0304_0506_0708, rtp: 256 };
        assert_eq!(first(&bytes), Some(report));
        assert_eq!(first(&bytes[..19]), None);
        bytes[1] = 201;
        assert_eq!(first(&bytes), None);
    }
}
