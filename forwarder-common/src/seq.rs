//! Extended sequence number and replay list of one SRTP source (RFC 3711 §3.3).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// Indices that the replay list tells apart. RFC 3711 asks for 64 at least.
pub const REPLAY_WINDOW: usize = 256;

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
/// Slot `index % REPLAY_WINDOW` remembers the last index accepted in its residue class, plus one
/// (0: none yet). Slots only grow, so an index can be accepted once at most, on whatever CPUs the
/// packets of one source arrive: of two CPUs with the same packet one wins the compare-and-swap.
///
/// [`check`](Self::check) is asked before the tag is verified and changes nothing;
/// [`accept`](Self::accept) is called only after it (RFC 3711 §3.3: unauthenticated packets must
/// not move the state).
#[repr(C)]
#[derive(Debug)]
pub struct ReplayWindow {
    highest: AtomicU64,
    accepted: [AtomicU64; REPLAY_WINDOW],
}

impl ReplayWindow {
    /// A list that has accepted `first` and nothing else: the packet from which userspace learnt
    /// the source. Everything at or before it is refused.
    pub const fn starting_after(first: ExtendedSeq) -> Self {
        let mut accepted = [const { AtomicU64::new(0) }; REPLAY_WINDOW];
        // Fill each residue class with its last index up to `first`: what came before the session's
        // first packet was never for us, and must not surface behind a subscriber's join point.
        let mut back = 0;
        while back < REPLAY_WINDOW as u64 && back <= first.0 {
            let index = first.0 - back;
            accepted[(index % REPLAY_WINDOW as u64) as usize] = AtomicU64::new(index + 1);
            back += 1;
        }
        Self { highest: AtomicU64::new(first.0), accepted }
    }

    /// Highest authenticated index.
    #[inline(always)]
    pub fn highest(&self) -> ExtendedSeq {
        ExtendedSeq(self.highest.load(Relaxed))
    }

    /// Highest index ever accepted, exact even where two CPUs raced to raise [`highest`](Self::highest).
    /// Whoever hands an outgoing index range over to a new source must use this one.
    pub fn highest_accepted(&self) -> ExtendedSeq {
        let newest = self.accepted.iter().map(|slot| slot.load(Relaxed)).max();
        ExtendedSeq(newest.unwrap_or(0).saturating_sub(1))
    }

    #[inline(always)]
    fn slot(&self, index: ExtendedSeq) -> &AtomicU64 {
        &self.accepted[index.0 as usize & (REPLAY_WINDOW - 1)]
    }

    /// May a packet with this index be authenticated? Changes nothing.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    #[inline(always)]
    pub fn check(&self, index: ExtendedSeq) -> Result<(), Refused> {
        let last = self.slot(index).load(Relaxed);
        if last == index.0 + 1 {
            return Err(Refused::Replayed);
        }
        if last > index.0 || index.0 + (REPLAY_WINDOW as u64) <= self.highest().0 {
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
        let slot = self.slot(index);
        let last = slot.load(Relaxed);
        if last > index.0 {
            return Err(if last == index.0 + 1 { Refused::Replayed } else { Refused::TooOld });
        }
        if !atomic::compare_exchange(slot, last, index.0 + 1) {
            return Err(Refused::Replayed);
        }
        // A lost race here leaves `highest` a little low, which only makes the index estimate and
        // the age limit start from a slightly older packet; replay safety rests on the slots.
        if index.0 > self.highest.load(Relaxed) {
            self.highest.store(index.0, Relaxed);
        }
        Ok(())
    }
}
