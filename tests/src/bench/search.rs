//! The highest rate that a contender forwards without loss.

use std::time::Duration;

use anyhow::Result;

use super::{
    case::Case,
    contender::Contender,
    load::{LATE, Load},
    run::{Look, Subject, Times, run},
};

/// Copies per second of the first try.
const START: f64 = 40_000.0;
/// Copies per second of the last try: more than the load generator makes.
const END: f64 = 4_000_000.0;

/// Copies per second, to an eighth, that all arrive: the packets of each second, in time, without a single
/// loss, with the server's process on one CPU. 0: not even the first try.
///
/// # Errors
/// As [`run`].
pub fn highest_rate(contender: Contender, case: &Case) -> Result<f64> {
    let times = Times { warm_up: Duration::from_millis(400), measured: Duration::from_millis(600) };
    let holds = |copies: f64| {
        let case = Case { rate: copies / f64::from(case.all_viewers()), ..*case };
        let measured =
            run(Subject::Contender(contender), &case, &Load::seal(&case, times.load()), times, Look::OneCore)?;
        Ok::<_, anyhow::Error>(measured.lost == 0 && measured.late < LATE)
    };
    let (mut good, mut bad) = (0.0, START);
    while bad < END && holds(bad)? {
        (good, bad) = (bad, bad * 2.0);
    }
    while good > 0.0 && bad / good > 1.13 {
        let between = f64::sqrt(good * bad);
        if holds(between)? { good = between } else { bad = between }
    }
    Ok(good)
}
