//! Keeps a thread off the processor on which the kernel engine works.
//!
//! The scheduler wakes a thread where it was, if that processor seems idle; and one that makes a pass of
//! 200 copies in a softirq does seem idle. The thread that serves the viewers beyond the pass would wait
//! for its end, on a machine with another processor that has nothing to do.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// After so many packets in a row from one processor, the thread leaves it. Devices with several queues
/// use several processors in turn, and then there is nowhere to go.
const SURE: u32 = 32;

/// Where packets come from, and so where the calling thread shall not be.
pub(crate) struct Elsewhere {
    /// Where the thread may be at all.
    all: Option<CpuSet>,
    /// From where the last packets came, and how many in a row.
    cpu: usize,
    in_a_row: u32,
}

impl Elsewhere {
    /// For the calling thread.
    pub(crate) fn new() -> Self {
        Self { all: sched_getaffinity(Pid::from_raw(0)).ok(), cpu: usize::MAX, in_a_row: 0 }
    }

    /// The calling thread has a packet that was opened on this processor.
    pub(crate) fn came_from(&mut self, cpu: usize) {
        if let Some(set) = self.next(cpu) {
            // Refused, it stays where it is, which is slower and no more.
            let _ = sched_setaffinity(Pid::from_raw(0), &set);
        }
    }

    /// Where the thread shall be from now on. `None`: where it may be already.
    fn next(&mut self, cpu: usize) -> Option<CpuSet> {
        let all = self.all?;
        if cpu != self.cpu {
            let was_sure = self.in_a_row >= SURE;
            (self.cpu, self.in_a_row) = (cpu, 0);
            return was_sure.then_some(all);
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row != SURE {
            return None;
        }
        let mut others = all;
        others.unset(cpu).ok()?;
        let any = (0..CpuSet::count()).any(|cpu| others.is_set(cpu).unwrap_or(false));
        any.then_some(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu).unwrap());
        set
    }

    fn on(cpus: &[usize]) -> Elsewhere {
        Elsewhere { all: Some(set(cpus)), cpu: usize::MAX, in_a_row: 0 }
    }

    #[test]
    fn leaves_the_processor_that_all_packets_come_from() {
        let mut place = on(&[0, 1, 2]);
        assert!((0..SURE).all(|_| place.next(1).is_none()));
        assert_eq!(place.next(1), Some(set(&[0, 2])));
        assert!((0..1000).all(|_| place.next(1).is_none()));
        assert_eq!(place.next(2), Some(set(&[0, 1, 2])));
    }

    #[test]
    fn stays_when_packets_come_from_everywhere_or_there_is_one_processor() {
        let mut place = on(&[0, 1]);
        assert!((0..1000).all(|n| place.next(n % 2).is_none()));
        let mut place = on(&[0]);
        assert!((0..1000).all(|_| place.next(0).is_none()));
        let mut place = on(&[0, 1]);
        assert!((0..1000).all(|_| place.next(CpuSet::count()).is_none()));
    }
}
