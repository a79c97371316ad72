//! What arrives on the wire, counted before anything is decrypted.

use std::collections::BTreeMap;

/// Sequence numbers behind the highest one for which duplicates are recognised.
const WINDOW: usize = 4096;

/// Receive counters of one SSRC, from the clear RTP headers alone.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Extended: counted on over each wrap of the 16 bits.
    pub first: u64,
    /// Same.
    pub highest: u64,
    /// Datagrams, duplicates included.
    pub packets: u64,
    /// Those of them that came before.
    pub duplicates: u64,
    /// Those of them that are not duplicates but came after a higher one.
    pub reordered: u64,
    seen: Box<[bool; WINDOW]>,
}

impl Sequence {
    fn new(sequence: u16) -> Self {
        // A whole cycle up, so that a straggler from before the first one has a number too.
        let first = 0x1_0000 + u64::from(sequence);
        let mut seen = Box::new([false; WINDOW]);
        seen[first as usize % WINDOW] = true;
        Self { first, highest: first, packets: 1, duplicates: 0, reordered: 0, seen }
    }

    fn count(&mut self, sequence: u16) {
        let step = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        let extended = self.highest.saturating_add_signed(step);
        self.packets += 1;
        for skipped in self.highest + 1..extended {
            self.seen[skipped as usize % WINDOW] = false;
        }
        if extended > self.highest {
            self.highest = extended;
        } else if self.highest - extended >= WINDOW as u64 || self.seen[extended as usize % WINDOW] {
            self.duplicates += 1;
            return;
        } else {
            self.reordered += 1;
            self.first = self.first.min(extended);
        }
        self.seen[extended as usize % WINDOW] = true;
    }

    /// A packet that came by another way than as a datagram of this SSRC: by RTX. Counts it, if it had not come before.
    fn repaired(&mut self, sequence: u16) {
        let step = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        let extended = self.highest.saturating_add_signed(step);
        let known = self.highest.saturating_sub(extended) < WINDOW as u64 && extended <= self.highest;
        if known && !self.seen[extended as usize % WINDOW] {
            self.count(sequence);
        }
    }

    /// Sequence numbers between the first and the highest one that never came.
    pub fn lost(&self) -> u64 {
        (self.highest - self.first + 1).saturating_sub(self.packets - self.duplicates)
    }
}

/// All SSRCs that a peer receives.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    pub ssrcs: BTreeMap<u32, Sequence>,
}

impl Wire {
    /// A packet of this SSRC was given up to the peer, be it by a repair (RFC 4588).
    pub fn delivered(&mut self, ssrc: u32, sequence: u16) {
        if let Some(counters) = self.ssrcs.get_mut(&ssrc) {
            counters.repaired(sequence);
        }
    }

    /// Counts a datagram if it is RTP, by the rules of RFC 7983 and RFC 5761 §4.
    pub fn count(&mut self, datagram: &[u8]) {
        let [first, second, high, low, _, _, _, _, a, b, c, d, ..] = *datagram else { return };
        if !(128..192).contains(&first) || (64..96).contains(&(second & 0x7f)) {
            return;
        }
        let sequence = u16::from_be_bytes([high, low]);
        self.ssrcs
            .entry(u32::from_be_bytes([a, b, c, d]))
            .and_modify(|counters| counters.count(sequence))
            .or_insert_with(|| Sequence::new(sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::Wire;

    fn after(sequence: &[u16]) -> (u64, u64, u64, u64) {
        let mut wire = Wire::default();
        for number in sequence {
            let [high, low] = number.to_be_bytes();
            wire.count(&[0x80, 96, high, low, 0, 0, 0, 0, 0, 0, 0, 7]);
        }
        let counters = &wire.ssrcs[&7];
        (counters.packets, counters.lost(), counters.duplicates, counters.reordered)
    }

    #[test]
    fn counts_loss_duplicates_and_reordering_exactly() {
        assert_eq!(after(&[10, 11, 12]), (3, 0, 0, 0));
        assert_eq!(after(&[10, 12, 13]), (3, 1, 0, 0));
        assert_eq!(after(&[10, 12, 11, 12]), (4, 0, 1, 1));
        assert_eq!(after(&[65534, 65535, 0, 1]), (4, 0, 0, 0));
        assert_eq!(after(&[65535, 1, 0, 65534]), (4, 0, 0, 2));
    }

    #[test]
    fn ignores_what_is_not_rtp() {
        let mut wire = Wire::default();
        wire.count(&[0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        wire.count(&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        wire.count(&[0x80, 96]);
        assert!(wire.ssrcs.is_empty());
    }
}
