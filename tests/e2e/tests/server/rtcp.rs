//! RTCP between the server and its peers.

use anyhow::{Context, Result};
use tests_kit::peer::{Kind, Options};
use tests_kit::stage::{BOTH, Layout, Stage, clip, synthetic};

#[test]
fn joining_and_asking_reach_the_publisher_merged() -> Result<()> {
    let stage = Stage::plain()?;
    let clip = clip()?;
    let publisher = stage.publish(&clip, stage.publishing())?;
    let requests = || publisher.stats().video.keyframe_requests;
    let viewers = stage.play(8, &clip, stage.playing())?;
    let all: Vec<_> = (0..8).collect();
    stage.flows(&viewers, &all, Kind::Video, 5)?;
    assert!(requests() >= 1, "nobody asked for a keyframe when viewers joined");
    // At rest: what joining has caused is over.
    let mut last = (requests(), std::time::Instant::now());
    stage.until("requests have come to rest", || {
        if requests() != last.0 {
            last = (requests(), std::time::Instant::now());
        }
        Ok(last.1.elapsed().as_secs() >= 2)
    })?;
    let before = requests();
    all.iter().try_for_each(|number| viewers.request_keyframe(*number))?;
    stage.until("the request reached the publisher", || Ok(requests() > before))?;
    stage.flows(&viewers, &all, Kind::Video, 30)?;
    // Eight at once are one, and one more as soon as the throttle is open again for the later of them.
    let merged = requests() - before;
    assert!(merged < 8, "eight simultaneous requests became {merged}");
    Ok(())
}

#[test]
fn a_new_viewer_asks_for_a_keyframe_by_joining() -> Result<()> {
    let stage = Stage::plain()?;
    let clip = clip()?;
    let publisher = stage.publish(&clip, stage.publishing())?;
    let mut viewers = stage.play(1, &clip, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 25)?;
    for _ in 0..3 {
        let before = publisher.stats().video.keyframe_requests;
        let number = viewers.join()?;
        stage.until("joining asked for a keyframe", || Ok(publisher.stats().video.keyframe_requests > before))?;
        stage.flows(&viewers, &[number], Kind::Video, 1)?;
        // Once the throttle is open again, the next one is a request of its own.
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
    Ok(())
}

#[test]
fn reports_tell_the_truth() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    let sent = publisher.stats();
    // Counters are at rest: from the second report on from now, both sides must agree to the packet.
    for kind in BOTH {
        for number in [0, 1] {
            let reports = || viewers.stats()[number].media(kind).clone();
            let before = reports().sender_reports;
            stage.until("sender reports arrive", || Ok(reports().sender_reports >= before + 2))?;
            let report = reports().last_sender_report.expect("counted");
            assert_eq!(u64::from(report.packets), report.received_packets, "viewer {number} {kind:?}: {report:?}");
            assert_eq!(u64::from(report.octets), report.received_octets, "viewer {number} {kind:?}: {report:?}");
            assert_eq!(report.ssrc, reports().ssrc);
        }
        let reports = || publisher.stats().media(kind).clone();
        let before = reports().receiver_reports;
        stage.until("receiver reports arrive", || Ok(reports().receiver_reports >= before + 2))?;
        let report = reports().last_receiver_report.expect("counted");
        stage.assert_counted(report.packets_lost.into(), 1)?;
        // The first packet has number 1, so the last one has the number of packets.
        assert_eq!(u64::from(report.highest_sequence), sent.media(kind).packets, "{kind:?}: {report:?}");
        assert_ne!(report.last_sender_report, 0, "the publisher's sender report was not taken in: {report:?}");
    }
    Ok(())
}

#[test]
fn publishers_are_told_a_bit_rate() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[rtcp]\nremb_max_kbps = 6000\n")?;
    let publisher = stage.publish(&synthetic(50), Options { audio: vec![], ..stage.publishing() })?;
    let limit = || publisher.stats().video.last_remb.unwrap_or_default();
    stage.until("a limit has come", || Ok(limit() > 0))?;
    // It grows to that of the configuration, less the precision of REMB's 18-bit mantissa.
    stage
        .until("the limit is the one of the configuration", || Ok((5_999_000..=6_000_000).contains(&limit())))
        .with_context(|| format!("{:#?}", publisher.stats().video))
}
