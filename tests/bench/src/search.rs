//! The highest rate that a contender forwards without loss.

use std::time::Duration;

use anyhow::Result;

use super::{
    case::Case,
    load::LATE,
    run::{Measured, Times},
};

/// Copies per second of the first try.
const START: f64 = 40_000.0;
/// Copies per second of the last try: more than the load generator makes.
const END: f64 = 4_000_000.0;

/// The phases of a try.
pub const TIMES: Times = Times { warm_up: Duration::from_millis(400), measured: Duration::from_millis(600) };

/// Copies per second, to this factor, that all arrive: the packets of each second, in time, without a single
/// loss. 0: not even the first try. `attempt` runs a case with the server's process on one CPU; what it fails
/// once it may try again, since something else on the machine can be the reason.
///
/// # Errors
/// As `attempt`.
pub fn highest_rate(case: &Case, factor: f64, mut attempt: impl FnMut(&Case) -> Result<Measured>) -> Result<f64> {
    let mut holds = |copies: f64| {
        let case = Case { rate: copies / f64::from(case.all_viewers()), ..*case };
        for _ in 0..2 {
            let measured = attempt(&case)?;
            if measured.lost == Some(0) && measured.late < LATE {
                return Ok(true);
            }
        }
        Ok::<_, anyhow::Error>(false)
    };
    let (mut good, mut bad) = (0.0, START);
    while bad < END && holds(bad)? {
        (good, bad) = (bad, bad * 2.0);
    }
    while good > 0.0 && bad / good > factor {
        let between = f64::sqrt(good * bad);
        if holds(between)? { good = between } else { bad = between }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The highest rate of somebody who holds so many copies per second but fails every third try, and the
    /// number of tries.
    fn search(limit: f64) -> (f64, u32) {
        let mut tries = 0;
        let attempt = |case: &Case| {
            tries += 1;
            let lost = case.copies() > limit || tries % 3 == 0;
            Ok(Measured { lost: Some(lost.into()), ..Measured::default() })
        };
        (highest_rate(&Case::fan_out(64, 1100), 1.13, attempt).unwrap(), tries)
    }

    #[test]
    fn finds_the_limit_to_an_eighth() {
        for limit in [40_000.0, 41_000.0, 100_000.0, 777_777.0, 2_000_000.0] {
            let (found, tries) = search(limit);
            assert!(found <= limit && found > limit / 1.13 && tries < 22, "{limit}: {found}, {tries} tries");
        }
        assert_eq!(search(39_000.0), (0.0, 2));
    }

    #[test]
    fn ends_where_the_generator_does() {
        let (found, tries) = search(1e9);
        assert!(found > END / 2.0 && tries < 22, "{found}, {tries}");
    }
}
