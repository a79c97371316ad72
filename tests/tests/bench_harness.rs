//! The benchmark itself: it counts right, it sees loss, and it looks at what it counts. Nothing here says
//! how fast anything is.

use std::time::Duration;

use anyhow::Result;
use penstock_tests::bench::{
    case::{Case, Origin},
    contender::Contender,
    load::Load,
    run::{Look, Measured, Subject, Times, run},
};

const TIMES: Times = Times { warm_up: Duration::from_millis(100), measured: Duration::from_millis(300) };

fn measure(subject: Subject, case: &Case, look: Look) -> Result<Measured> {
    run(subject, case, &Load::seal(case, TIMES.load()), TIMES, look)
}

fn slow(viewers: u32) -> Case {
    Case { rate: 100.0, ..Case::fan_out(viewers, 500) }
}

#[test]
fn every_copy_counts_once() -> Result<()> {
    let measured = measure(Subject::Contender(Contender::Limit), &slow(8), Look::Plain)?;
    assert_eq!((measured.expected, measured.lost), (8 * 70, 0));
    assert!(measured.copies > 0.0 && measured.latency.quantile(0.5).is_some());
    assert!(measured.busy.cores > 0.0);
    Ok(())
}

#[test]
fn what_nobody_forwards_is_lost() -> Result<()> {
    let measured = measure(Subject::Nobody, &slow(8), Look::Plain)?;
    assert_eq!((measured.expected, measured.lost), (8 * 70, 8 * 70));
    Ok(())
}

#[test]
fn engines_pass_the_check_of_every_copy() -> Result<()> {
    for contender in [Contender::Kernel, Contender::Xdp, Contender::Socket, Contender::SocketGso] {
        let measured = measure(Subject::Contender(contender), &slow(8), Look::Check)?;
        let verdict = measured.verdict.unwrap_or_default();
        assert_eq!((verdict.right, verdict.wrong, measured.lost), (8 * 70, 0, 0), "{contender:?}: {verdict:?}");
        assert!(measured.memory.process > 1 << 20, "{contender:?}: {:?}", measured.memory);
        let has_maps = matches!(contender, Contender::Kernel | Contender::Xdp);
        assert!(measured.memory.maps > 0 || !has_maps, "{contender:?}: {:?}", measured.memory);
    }
    Ok(())
}

#[test]
fn sources_reach_their_viewers() -> Result<()> {
    let case = Case::cameras(8, Origin::Source);
    for contender in [Contender::Xdp, Contender::Socket, Contender::SocketGso] {
        let measured = measure(Subject::Contender(contender), &case, Look::Check)?;
        let verdict = measured.verdict.clone().unwrap_or_default();
        assert_eq!((verdict.right, verdict.wrong), (measured.expected, 0), "{contender:?}: {verdict:?}");
        assert!(measured.expected > 8 * 60 && measured.lost == 0, "{contender:?}: {measured:?}");
    }
    Ok(())
}

/// The programs without a check, where GSO's segments arrive in one piece.
#[test]
fn segments_are_counted_as_packets() -> Result<()> {
    let case = Case::cameras(8, Origin::Source);
    let measured = measure(Subject::Contender(Contender::SocketGso), &case, Look::Plain)?;
    assert_eq!(measured.lost, 0, "{measured:?}");
    Ok(())
}
