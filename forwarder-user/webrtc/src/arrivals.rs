//! Which packets of a transport have come and when, and what of it is to be reported next. No clock, no socket.
//!
//! For transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) there is one of these for a whole
//! transport, and `rtcp` writes its reports. RFC 8888 would have one for each SSRC, with RTP sequence numbers, and
//! another writer: nothing here knows which numbers these are.

use std::collections::BTreeMap;

/// Numbers behind the highest that are remembered: for those that come later than this nobody waits.
const KEPT: u64 = 1024;
/// Packets that have come in one report: with two bytes for each it fits into a datagram.
const MOST: usize = 300;
/// Nanoseconds of the unit in which reports tell time (§3.1.5 of the draft).
const TICK_NS: u64 = 250_000;
/// Largest distance in time between two packets of one report, in ticks: 16 bits with a sign.
const FAR: u64 = i16::MAX as u64;

/// See the module.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Times in ticks, by number; the first arrival of each.
    came: BTreeMap<u64, u64>,
    highest: Option<u64>,
    /// The lowest number that the next report tells of.
    next: u64,
    /// Something has come since the last report.
    news: bool,
}

/// Packets with numbers one behind the other, of which the last one has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first one's number.
    pub first: u16,
    /// When each came, in units of 250 µs since any moment that stays the same; `None`: it has not.
    pub came: Vec<Option<u64>>,
}

impl Arrivals {
    /// The packet with this number came at this time.
    pub fn came(&mut self, number: u16, at_ns: u64) {
        // From 2^16 on, so that numbers before the first one have a place.
        let highest = *self.highest.get_or_insert(1 << 16 | u64::from(number));
        let ahead = number.wrapping_sub(highest as u16) as i16;
        let Some(number) = highest.checked_add_signed(ahead.into()) else { return };
        if number + KEPT <= highest {
            return;
        }
        if self.came.is_empty() {
            self.next = number;
        }
        if self.came.contains_key(&number) {
            return;
        }
        self.came.insert(number, at_ns / TICK_NS);
        let highest = highest.max(number);
        self.highest = Some(highest);
        let floor = (highest + 1).saturating_sub(KEPT);
        while self.came.first_key_value().is_some_and(|(first, _)| *first < floor) {
            self.came.pop_first();
        }
        // One that was reported as missing, and came after all, is told with all behind it.
        self.next = self.next.min(number).max(floor);
        self.news = true;
    }

    /// What is to be told now, in the order of numbers.
    pub fn reports(&mut self) -> Vec<Report> {
        let Some(highest) = self.highest.filter(|_| std::mem::take(&mut self.news)) else { return vec![] };
        let (mut reports, mut report, mut count) = (vec![], Report { first: self.next as u16, came: vec![] }, 0);
        let mut last = None::<u64>;
        for number in self.next..=highest {
            let at = self.came.get(&number).copied();
            let far = last.zip(at).is_some_and(|(last, at)| last.abs_diff(at) > FAR);
            if far || count == MOST {
                // What is missing at its end goes to the next one.
                let missing = report.came.iter().rev().take_while(|came| came.is_none()).count();
                report.came.truncate(report.came.len() - missing);
                let next = Report { first: (number - missing as u64) as u16, came: vec![None; missing] };
                reports.push(std::mem::replace(&mut report, next));
                (count, last) = (0, None);
            }
            report.came.push(at);
            count += usize::from(at.is_some());
            last = at.or(last);
        }
        reports.push(report);
        self.next = highest + 1;
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn all(arrivals: &mut Arrivals) -> Vec<(u16, bool)> {
        let told = |report: Report| {
            assert!(report.came.last().is_some_and(Option::is_some), "{report:?}");
            let first = report.first;
            report.came.into_iter().enumerate().map(move |(place, at)| (first.wrapping_add(place as u16), at.is_some()))
        };
        arrivals.reports().into_iter().flat_map(told).collect()
    }

    #[test]
    fn each_packet_is_told_once_and_gaps_are_named() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.reports(), []);
        for number in [65_534, 65_535, 1] {
            arrivals.came(number, 10 * MS);
        }
        let report = Report { first: 65_534, came: vec![Some(40), Some(40), None, Some(40)] };
        assert_eq!(arrivals.reports(), [report]);
        assert_eq!(arrivals.reports(), []);
        arrivals.came(2, 20 * MS);
        assert_eq!(all(&mut arrivals), [(2, true)]);
    }

    #[test]
    fn what_comes_late_is_told_with_all_behind_it() {
        let mut arrivals = Arrivals::default();
        [10, 11, 13].into_iter().for_each(|number| arrivals.came(number, MS));
        arrivals.reports();
        arrivals.came(14, 2 * MS);
        arrivals.came(12, 3 * MS);
        assert_eq!(all(&mut arrivals), [(12, true), (13, true), (14, true)]);
        // Before the first one, twice; and later than anybody waits for.
        arrivals.came(9, 3 * MS);
        arrivals.came(9, 9 * MS);
        assert_eq!(arrivals.reports()[0].came[0], Some(12));
        arrivals.came(9 + 2000, 3 * MS);
        arrivals.reports();
        arrivals.came(10, 3 * MS);
        assert_eq!(arrivals.reports(), []);
    }

    #[test]
    fn reports_fit_and_a_jump_is_bounded() {
        let mut arrivals = Arrivals::default();
        (0..1000).for_each(|number| arrivals.came(number, u64::from(number) * MS));
        let reports = arrivals.reports();
        assert_eq!(reports.iter().map(|report| report.came.len()).collect::<Vec<_>>(), [300, 300, 300, 100]);
        assert_eq!(reports[3].first, 900);
        arrivals.came(30_000, 2000 * MS);
        let told = all(&mut arrivals);
        assert_eq!((told.len() as u64, told.last()), (KEPT, Some(&(30_000, true))));
        assert!(arrivals.came.len() as u64 <= KEPT);
        // A minute of silence, then a loss.
        let mut late = Arrivals::default();
        late.came(1, MS);
        late.came(3, 60_000 * MS);
        late.came(5, 60_000 * MS);
        let reports = late.reports();
        assert_eq!(reports[0], Report { first: 1, came: vec![Some(4)] });
        assert_eq!(reports[1], Report { first: 2, came: vec![None, Some(240_000), None, Some(240_000)] });
    }

    /// Any line, any time of looking: what came is told, and nothing else.
    #[test]
    fn the_sender_learns_what_came() {
        const PACKETS: usize = 70_000;
        for seed in 0..60u64 {
            let mut state = seed;
            let mut roll = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            let (mut arrivals, mut came, mut told) = (Arrivals::default(), vec![false; PACKETS], vec![false; PACKETS]);
            let mut late = std::collections::VecDeque::new();
            for number in 0..PACKETS {
                if roll() % 100 < seed % 50 {
                    continue;
                }
                // One in twenty is overtaken by some.
                if roll() % 20 == 0 {
                    late.push_back((number + roll() as usize % 30, number));
                } else {
                    arrivals.came(number as u16, number as u64 * MS / 4);
                    came[number] = true;
                }
                while late.front().is_some_and(|(until, _)| *until <= number) {
                    let Some((_, late)) = late.pop_front() else { break };
                    arrivals.came(late as u16, number as u64 * MS / 4);
                    came[late] = true;
                }
                if roll() % 40 == 0 {
                    for (at, is_there) in all(&mut arrivals) {
                        let full = number & !0xffff | usize::from(at);
                        let full = if full > number + 100 { full - 0x1_0000 } else { full };
                        assert_eq!(came[full], is_there, "seed {seed}: {full}");
                        told[full] |= is_there;
                    }
                }
            }
            let missed = came.iter().zip(&told).take(PACKETS - 1000).filter(|(came, told)| came != told).count();
            assert_eq!(missed, 0, "seed {seed}");
        }
    }
}
