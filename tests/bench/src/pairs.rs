//! Two builds of the same benchmark in turn, and how sure their ratio is.
//!
//! A machine's speed changes within minutes, by a third on shared hosts: figures of one hour say nothing about those of
//! the next, but two runs that follow each other share most of it. So runs go in pairs, each pair in the other order
//! than the one before, and what counts is the median of the pairs' ratios, with an interval.

/// Ratios of pairs, `after / before`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    /// Of the median, 95 % at least. `None`: too few pairs for it.
    pub interval: Option<[f64; 2]>,
}

/// How sure the interval has to be.
const CONFIDENCE: f64 = 0.95;

impl Ratio {
    /// Of `(before, after)` pairs. `None`: there are none.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let mut ratios: Vec<f64> = pairs.iter().map(|(before, after)| after / before).collect();
        ratios.sort_by(f64::total_cmp);
        let last = ratios.len().checked_sub(1)?;
        let median = (ratios[last / 2] + ratios[last.div_ceil(2)]) / 2.0;
        let interval = rank(ratios.len()).map(|rank| [ratios[rank], ratios[last - rank]]);
        Some(Self { median, interval })
    }

    /// Is the whole interval below `1 + percent / 100`? `false`: no, or it is not known.
    pub fn within(&self, percent: f64) -> bool {
        self.interval.is_some_and(|[_, high]| high < 1.0 + percent / 100.0)
    }
}

/// The highest rank, counted from 0, from which on both sides the median of `n` values lies with [`CONFIDENCE`]. It
/// asks nothing of how the values are spread: each is above the median or below it, as a coin falls.
fn rank(n: usize) -> Option<usize> {
    // The chance that `k` of `n` coins show heads, for k = 0, 1, …
    let mut chance = 0.5_f64.powi(i32::try_from(n).ok()?);
    let (mut below, mut rank) = (0.0, None);
    for k in 0..n / 2 {
        below += chance;
        if 2.0 * below > 1.0 - CONFIDENCE {
            break;
        }
        rank = Some(k);
        chance *= (n - k) as f64 / (k + 1) as f64;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        // From the tables of the sign test, 5 %, both sides.
        let wanted = [(5, None), (6, Some(0)), (8, Some(0)), (9, Some(1)), (10, Some(1)), (12, Some(2)), (20, Some(5))];
        for (n, wanted) in wanted {
            assert_eq!(rank(n), wanted, "{n}");
        }
    }

    #[test]
    fn within_means_the_whole_interval() {
        let pairs = |ratios: [f64; 10]| ratios.map(|ratio| (2.0, 2.0 * ratio));
        let even = Ratio::of(&pairs([0.9, 0.99, 1.0, 1.0, 1.01, 1.01, 1.02, 1.02, 1.025, 1.5])).unwrap();
        assert!((even.median - 1.01).abs() < 1e-9 && even.within(3.0) && !even.within(2.0), "{even:?}");
        let few = Ratio::of(&[(1.0, 1.0); 5]).unwrap();
        assert!(few.median == 1.0 && few.interval.is_none() && !few.within(3.0));
        assert_eq!(Ratio::of(&[]), None);
    }
}
