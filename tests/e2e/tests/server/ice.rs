//! ICE: trickle, restart, new addresses, several candidates.

use anyhow::Result;
use tests_kit::peer::{Kind, Options};
use tests_kit::stage::{BOTH, Stage, ip, synthetic};
use tests_kit::whip::Client;

#[test]
fn candidates_may_trickle() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let trickle = |options: Options| Options { trickle: true, ..options };
    let publisher = stage.publish(&source, trickle(stage.publishing()))?;
    let viewers = stage.play(2, &source, trickle(stage.playing()))?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn peers_with_several_addresses() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let many = ["10.60.0.2", "10.60.0.3", "fd60::2", "fd60::3"].map(ip).to_vec();
    let with = |options: Options| Options { addresses: many.clone(), ..options };
    let publisher = stage.publish(&source, with(stage.publishing()))?;
    let viewers = stage.play(3, &source, with(stage.playing()))?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    for one in &stats {
        // A late nomination moves the session, which may cost or double packets but never change them.
        assert_eq!((one.video.mismatches, one.audio.mismatches), (0, 0), "{one:#?}");
        assert_eq!(one.video.decrypted, one.video.packets, "{one:#?}");
    }
    Ok(())
}

#[test]
fn ice_restarts_on_the_same_addresses_lose_nothing() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let mut publisher = stage.publish(&source, stage.publishing())?;
    let mut viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    publisher.restart_ice(&[])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    viewers.restart_ice(1, &[])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    stage.assert_exact(&stats, &BOTH)?;
    assert!(stats.iter().all(|one| one.video.jumps == 0));
    Ok(())
}

#[test]
fn a_publisher_moves_to_another_address() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let mut publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    publisher.restart_ice(&[ip("10.60.0.3")])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 200)?;
    publisher.restart_ice(&[ip("fd60::2")])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 200)?;
    stage.rest(&publisher, &viewers)?;
    for one in viewers.stop()? {
        // What was sent before the new way was open is lost; nothing else may be wrong.
        let video = &one.video;
        assert_eq!((video.mismatches, video.duplicates), (0, 0), "{one:#?}");
        assert_eq!(video.decrypted, video.packets, "{one:#?}");
    }
    Ok(())
}

#[test]
fn a_viewer_moves_to_another_address_and_its_neighbour_notices_nothing() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let mut viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    viewers.restart_ice(1, &[ip("10.60.0.3")])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 200)?;
    viewers.restart_ice(1, &[ip("fd60::3")])?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 200)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    stage.assert_exact(&stats[..1], &BOTH)?;
    assert_eq!((stats[1].video.mismatches, stats[1].video.duplicates), (0, 0), "{:#?}", stats[1]);
    Ok(())
}

#[test]
fn an_ice_restart_must_name_the_ice_session() -> Result<()> {
    let stage = Stage::plain()?;
    let publisher = stage.publish(&synthetic(50), stage.publishing())?;
    let client = Client { namespace: Some(stage.near.name().into()), token: None };
    let fragment =
        "a=ice-ufrag:wxyz\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n";
    for (if_match, status) in [(Some("\"nonsense\""), 412), (None, 428)] {
        let reply = client.patch(publisher.session()?, if_match, fragment)?;
        assert_eq!(reply.status, status, "{if_match:?}: {}", reply.body);
    }
    Ok(())
}
