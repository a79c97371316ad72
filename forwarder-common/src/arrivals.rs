//! When packets came, by the number under which their sender counts all packets of a transport
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01): what feedback to the sender is made of.
//!
//! Each incoming track has a ring. A packet has the place of its number there, and one aligned word holds number and
//! time: whoever authenticates a packet stores it, on whatever CPU, and whoever makes feedback looks which words have
//! changed since it looked last. No lock, no cursor, no read-modify-write; a word that was overwritten before anybody
//! looked is a packet that looks lost to its sender.

use core::sync::atomic::AtomicU64;

use crate::atomic;

/// Numbers that a ring tells apart: at a look every 50 ms, 10,000 packets a second, of all tracks of the transport.
pub const PLACES: usize = 512;

/// Time is kept in units of so many bits of a nanosecond: 1,024 ns.
const UNIT_BITS: u32 = 10;

/// The packets of one track. 4,096 bytes: a page.
#[repr(C)]
#[derive(Debug)]
pub struct Arrivals([AtomicU64; PLACES]);

impl Arrivals {
    /// Nothing has come.
    #[expect(clippy::new_without_default, reason = "a page is not made by the way")]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; PLACES])
    }

    /// The authentic packet with this number came at this time, ns of CLOCK_BOOTTIME.
    #[inline(always)]
    pub fn note(&self, number: u16, now_ns: u64) {
        let word = now_ns >> UNIT_BITS << 16 | number as u64;
        atomic::store(&self.0[number as usize & (PLACES - 1)], word);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.iter().for_each(|place| atomic::store(place, 0));
    }

    /// What has come since `seen` was used last: numbers and times, ns of CLOCK_BOOTTIME.
    pub fn since(&self, seen: &mut Seen, mut each: impl FnMut(u16, u64)) {
        for (place, seen) in self.0.iter().zip(&mut seen.0) {
            let word = atomic::load(place);
            if word != *seen {
                *seen = word;
                if word != 0 {
                    each(word as u16, word >> 16 << UNIT_BITS);
                }
            }
        }
    }
}

/// What somebody has seen of an [`Arrivals`].
#[derive(Clone, Debug)]
pub struct Seen([u64; PLACES]);

impl Seen {
    /// Nothing yet.
    #[expect(clippy::new_without_default, reason = "a page is not made by the way")]
    pub const fn new() -> Self {
        Self([0; PLACES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_told_once() {
        assert_eq!(size_of::<Arrivals>(), 4096);
        let (arrivals, mut seen) = (Arrivals::new(), Seen::new());
        let look = |seen: &mut Seen| {
            let (mut count, mut last) = (0, (0, 0));
            arrivals.since(seen, |number, at| {
                count += 1;
                last = last.max((number, at));
            });
            (count, last)
        };
        assert_eq!(look(&mut seen), (0, (0, 0)));
        arrivals.note(0, 5_000_000);
        arrivals.note(511, 7_000_000);
        let (count, (number, at)) = look(&mut seen);
        assert_eq!((count, number), (2, 511));
        assert!(7_000_000 - at < 1024);
        assert_eq!(look(&mut seen), (0, (0, 0)));
        // The same place again, a round later; and a time that no machine reaches.
        arrivals.note(512, 8_000_000);
        assert_eq!(look(&mut seen).1.0, 512);
        arrivals.note(3, 1 << 57);
        assert_eq!(look(&mut seen), (1, (3, 1 << 57)));
        arrivals.clear();
        assert_eq!(look(&mut seen), (0, (0, 0)));
    }
}
