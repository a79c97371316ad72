//! Extended sequence number and replay list of one SRTP source (RFC 3711 §3.3).

use core::sync::atomic::AtomicU64;

use crate::atomic;

/// The 48-bit SRTP packet index `ROC << 16 | SEQ` of RFC 3711 §3.3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ExtendedSeq(pub u64);

impl ExtendedSeq {
    /// The largest index under one key (RFC 3711 §9.2: 2^48 packets).
    pub const MAX: ExtendedSeq = ExtendedSeq((1 << 48) - 1);

    /// Roll-over counter.
    #[inline(always)]
    pub const fn roc(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Sequence number on the wire.
    #[inline(always)]
    pub const fn seq(self) -> u16 {
        self.0 as u16
    }

    /// Estimates the index of a packet with sequence number `seq` when `self` is the highest index
    /// authenticated so far (RFC 3711 §3.3.1 and Appendix A): the candidate within 2^15 of it.
    ///
    /// `None`: the packet would lie before index 0 or beyond 2^48 - 1, so no key can fit.
    #[inline(always)]
    pub const fn estimate(self, seq: u16) -> Option<ExtendedSeq> {
        let distance = seq.wrapping_sub(self.seq()) as i16 as i64;
        let index = self.0 as i64 + distance;
        if index < 0 || index > Self::MAX.0 as i64 { None } else { Some(ExtendedSeq(index as u64)) }
    }
}

/// Indices that the replay list tells apart. RFC 3711 asks for 64 at least. A packet that is asked for again comes a
/// round trip or two behind those that it belongs to: these are a second at 20 Mbit/s. 16 KB for each SSRC.
pub const REPLAY_WINDOW: usize = 2048;

/// Why an index is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This index was accepted before.
    Replayed,
    /// Too far behind the highest index to be told apart from a replay.
    TooOld,
}

/// Replay list without a lock.
///
/// Slot `index % N` (`N` is a power of two) remembers the last index accepted in its residue class, plus one
/// (0: none yet). Slots only grow, so an index can be accepted once at most, on whatever CPUs the
/// packets of one source arrive: of two CPUs with the same packet one wins the compare-and-swap.
///
/// [`check`](Self::check) is asked before the tag is verified and changes nothing;
/// [`accept`](Self::accept) is called only after it (RFC 3711 §3.3: unauthenticated packets must
/// not move the state).
#[repr(C)]
#[derive(Debug)]
pub struct ReplayWindow<const N: usize = REPLAY_WINDOW> {
    highest: AtomicU64,
    accepted: [AtomicU64; N],
}

impl<const N: usize> ReplayWindow<N> {
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// A list that has accepted `first` and nothing else: the packet from which userspace learnt
    /// the source. Everything at or before it is refused.
    pub const fn starting_after(first: ExtendedSeq) -> Self {
        let mut accepted = [const { AtomicU64::new(0) }; N];
        // Fill each residue class with its last index up to `first`: what came before the session's
        // first packet was never for us, and must not surface behind a subscriber's join point.
        let mut back = 0;
        while back < N as u64 && back <= first.0 {
            let index = first.0 - back;
            accepted[(index % N as u64) as usize] = AtomicU64::new(index + 1);
            back += 1;
        }
        Self { highest: AtomicU64::new(first.0), accepted }
    }

    /// Highest authenticated index.
    #[inline(always)]
    pub fn highest(&self) -> ExtendedSeq {
        ExtendedSeq(atomic::load(&self.highest))
    }

    /// Highest index ever accepted, exact even where two CPUs raced to raise [`highest`](Self::highest).
    /// Whoever hands an outgoing index range over to a new source must use this one.
    pub fn highest_accepted(&self) -> ExtendedSeq {
        let newest = self.accepted.iter().map(atomic::load).max();
        ExtendedSeq(newest.unwrap_or(0).saturating_sub(1))
    }

    #[inline(always)]
    fn slot(&self, index: ExtendedSeq) -> &AtomicU64 {
        &self.accepted[index.0 as usize & Self::MASK]
    }

    /// May a packet with this index be authenticated? Changes nothing.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    #[inline(always)]
    pub fn check(&self, index: ExtendedSeq) -> Result<(), Refused> {
        let last = atomic::load(self.slot(index));
        if last == index.0 + 1 {
            return Err(Refused::Replayed);
        }
        if last > index.0 || index.0 + (N as u64) <= self.highest().0 {
            return Err(Refused::TooOld);
        }
        Ok(())
    }

    /// Records an authenticated index.
    ///
    /// # Errors
    /// [`Refused`] if another CPU accepted it, or one beyond it, since [`check`](Self::check).
    #[inline(always)]
    pub fn accept(&self, index: ExtendedSeq) -> Result<(), Refused> {
        self.enter(index).map(|_| ())
    }

    /// The same; says whether indices between it and the highest one before have not come, or not yet.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    #[inline(always)]
    pub fn enter(&self, index: ExtendedSeq) -> Result<bool, Refused> {
        let slot = self.slot(index);
        let last = atomic::load(slot);
        if last > index.0 {
            return Err(if last == index.0 + 1 { Refused::Replayed } else { Refused::TooOld });
        }
        if !atomic::compare_exchange(slot, last, index.0 + 1) {
            return Err(Refused::Replayed);
        }
        // A lost race here leaves `highest` a little low, which only makes the index estimate and
        // the age limit start from a slightly older packet; replay safety rests on the slots.
        let highest = atomic::load(&self.highest);
        if index.0 > highest {
            atomic::store(&self.highest, index.0);
        }
        Ok(index.0 > highest + 1)
    }

    /// Below this index the list does not tell what has come.
    pub fn floor(&self) -> u64 {
        (self.highest().0 + 1).saturating_sub(N as u64)
    }

    /// Has this index been accepted? From [`floor`](Self::floor) on the list can tell.
    pub fn has(&self, index: ExtendedSeq) -> bool {
        atomic::load(self.slot(index)) == index.0 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROC: u64 = 1 << 16;

    #[test]
    fn estimate_is_the_candidate_within_half_a_cycle() {
        // RFC 3711 §3.3.1: (highest, seq) -> index, around the wrap both ways.
        let cases = [
            (5 * ROC + 100, 101, 5 * ROC + 101),
            (5 * ROC + 100, 99, 5 * ROC + 99),
            (5 * ROC + 0xfff0, 3, 6 * ROC + 3),
            (5 * ROC + 3, 0xfff0, 4 * ROC + 0xfff0),
            (5 * ROC, 0x7fff, 5 * ROC + 0x7fff),
            (5 * ROC, 0x8000, 4 * ROC + 0x8000),
            (5 * ROC + 0x8000, 0, 5 * ROC),
            (5 * ROC + 0x8001, 0, 6 * ROC),
            (0, 1, 1),
        ];
        for (highest, seq, index) in cases {
            assert_eq!(ExtendedSeq(highest).estimate(seq), Some(ExtendedSeq(index)), "{highest:#x} {seq:#x}");
        }
    }

    #[test]
    fn estimate_ends_with_the_key() {
        assert_eq!(ExtendedSeq(3).estimate(0xffff), None);
        assert_eq!(ExtendedSeq::MAX.estimate(0), None);
        assert_eq!(ExtendedSeq::MAX.estimate(0xffff), Some(ExtendedSeq::MAX));
    }

    /// RFC 3711 Appendix A as it is written there, as an oracle.
    fn appendix_a(highest: u64, seq: u16) -> i64 {
        let (roc, s_l, seq) = ((highest >> 16) as i64, (highest & 0xffff) as i64, i64::from(seq));
        let v = if s_l < 32768 {
            if seq - s_l > 32768 { roc - 1 } else { roc }
        } else if s_l - 32768 > seq {
            roc + 1
        } else {
            roc
        };
        v << 16 | seq
    }

    #[test]
    fn estimate_agrees_with_appendix_a() {
        let mut x = 1u64;
        for _ in 0..200_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (highest, seq) = (x >> 32 & 0xf_ffff, (x >> 16) as u16);
            // At a distance of exactly 2^15 the two rules may differ; no sane sender gets there.
            if (seq.wrapping_sub(highest as u16)) == 0x8000 {
                continue;
            }
            let expected = u64::try_from(appendix_a(highest, seq)).ok().map(ExtendedSeq);
            assert_eq!(ExtendedSeq(highest).estimate(seq), expected, "{highest:#x} {seq:#x}");
        }
    }

    #[test]
    fn nothing_up_to_the_first_packet_is_accepted() {
        for first in [0, 5, 255, 256, 1000] {
            let window = <ReplayWindow>::starting_after(ExtendedSeq(first));
            for index in 0..=first {
                assert!(window.check(ExtendedSeq(index)).is_err());
                assert!(window.accept(ExtendedSeq(index)).is_err());
            }
            assert_eq!(window.check(ExtendedSeq(first)), Err(Refused::Replayed));
            assert_eq!(window.accept(ExtendedSeq(first + 1)), Ok(()));
            assert_eq!(window.highest_accepted(), ExtendedSeq(first + 1));
            let short = ReplayWindow::<16>::starting_after(ExtendedSeq(first));
            assert!((0..=first).all(|index| short.accept(ExtendedSeq(index)).is_err()));
            assert_eq!(short.accept(ExtendedSeq(first + 20)), Ok(()));
            assert_eq!(short.check(ExtendedSeq(first + 4)), Err(Refused::TooOld));
            assert_eq!(short.accept(ExtendedSeq(first + 5)), Ok(()));
            assert_eq!(short.accept(ExtendedSeq(first + 5)), Err(Refused::Replayed));
        }
    }

    #[test]
    fn what_is_missing_can_be_told() {
        let window = ReplayWindow::<16>::starting_after(ExtendedSeq(10));
        assert_eq!(window.enter(ExtendedSeq(11)), Ok(false));
        assert_eq!(window.enter(ExtendedSeq(14)), Ok(true));
        assert_eq!(window.enter(ExtendedSeq(12)), Ok(false), "late");
        assert!([11, 12, 14].map(ExtendedSeq).iter().all(|index| window.has(*index)));
        assert!([13, 15].map(ExtendedSeq).iter().all(|index| !window.has(*index)));
        assert_eq!(window.floor(), 0);
        assert_eq!((window.enter(ExtendedSeq(40)), window.floor()), (Ok(true), 25));
        assert!(!window.has(ExtendedSeq(25)), "its slot is free, or has an older one");
    }

    #[test]
    fn check_changes_nothing() {
        let window = <ReplayWindow>::starting_after(ExtendedSeq(10));
        for index in [11, 500, 70_000] {
            assert_eq!(window.check(ExtendedSeq(index)), Ok(()));
        }
        assert_eq!((window.highest().0, window.highest_accepted().0), (10, 10));
    }

    #[test]
    fn window_edges() {
        let window = <ReplayWindow>::starting_after(ExtendedSeq(10));
        window.accept(ExtendedSeq(5000)).unwrap();
        let oldest = 5000 - REPLAY_WINDOW as u64 + 1;
        assert_eq!(window.check(ExtendedSeq(oldest - 1)), Err(Refused::TooOld));
        assert_eq!(window.check(ExtendedSeq(oldest)), Ok(()));
        window.accept(ExtendedSeq(oldest)).unwrap();
        assert_eq!(window.check(ExtendedSeq(oldest)), Err(Refused::Replayed));
        assert_eq!(window.check(ExtendedSeq(5000)), Err(Refused::Replayed));
        assert_eq!(window.highest().0, 5000);
    }

    /// Random walks against a plain list of everything accepted so far.
    #[test]
    fn accepts_each_index_once_and_agrees_with_a_list() {
        let mut seen = [false; 50_000];
        let window = <ReplayWindow>::starting_after(ExtendedSeq(0));
        seen[0] = true;
        let (mut x, mut highest) = (7u64, 0usize);
        for _ in 0..100_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = (highest + 100).saturating_sub((x >> 33) as usize % 3000).min(seen.len() - 1);
            let expected = if index + REPLAY_WINDOW <= highest {
                // A slot may still remember exactly this index, and then calls it by its better name.
                None
            } else {
                Some(if seen[index] { Err(Refused::Replayed) } else { Ok(()) })
            };
            let checked = window.check(ExtendedSeq(index as u64));
            match expected {
                Some(expected) => assert_eq!(checked, expected, "{index} with highest {highest}"),
                None => assert!(checked.is_err()),
            }
            if checked.is_ok() {
                window.accept(ExtendedSeq(index as u64)).unwrap();
                assert!(!seen[index]);
                seen[index] = true;
                highest = highest.max(index);
            }
            assert_eq!(window.highest().0, highest as u64);
        }
        assert_eq!(highest, seen.len() - 1);
    }
}
