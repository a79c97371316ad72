//! Lines of the log that strangers cause: few, of each kind and from each address, and the next one tells of the others.

use std::time::{Duration, Instant};

use penstock_engine::block::Block;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lines {
    since: Instant,
    /// What was written in this while. As many as there are lines at most.
    written: Vec<(&'static str, Block)>,
    kept_back: u64,
    most: usize,
    most_of_one: usize,
}

impl Lines {
    const WHILE: Duration = Duration::from_secs(10);

    /// So many in ten seconds, a quarter of them of one kind from one address.
    pub(crate) fn new(now: Instant, most: usize) -> Self {
        Self { since: now, written: vec![], kept_back: 0, most, most_of_one: (most / 4).max(1) }
    }

    /// May a line be written? Then with how many were not since the last one that was.
    pub(crate) fn take(&mut self, now: Instant, kind: &'static str, from: Block) -> Option<u64> {
        if now.duration_since(self.since) >= Self::WHILE {
            self.since = now;
            self.written.clear();
        }
        let of_one = self.written.iter().filter(|one| **one == (kind, from)).count();
        if self.written.len() >= self.most || of_one >= self.most_of_one {
            self.kept_back += 1;
            return None;
        }
        self.written.push((kind, from));
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn lines_are_few_and_the_next_one_tells_of_the_others() {
        let now = Instant::now();
        let mut lines = Lines::new(now, 20);
        let from = |last: u8| Block::from(IpAddr::from([192, 0, 2, last]));
        let written = (0..1000).filter_map(|_| lines.take(now, "refused", from(1))).count();
        assert_eq!(written, 5, "of one address");
        assert_eq!(lines.take(now, "refused", from(2)), Some(995), "another one has lines of its own");
        assert_eq!(lines.take(now, "gone", from(1)), Some(0), "and another kind");
        let all = (0..=255).filter_map(|last| lines.take(now, "refused", from(last))).count();
        assert_eq!(all, 13);
        let later = now + Lines::WHILE;
        assert_eq!(lines.take(later, "refused", from(1)), Some(256 - 13 - 1), "one of them was told");
        assert_eq!(lines.take(later, "refused", from(1)), Some(0));
    }
}
