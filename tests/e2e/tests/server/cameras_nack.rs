//! Viewers that lose packets of a camera, and get them again if the server keeps them.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera};
use tests_kit::peer::{Codec, Loss, Options, Source, Stats};
use tests_kit::stage::{Layout, Stage, synthetic};

const ADDRESS: &str = "10.60.0.2:8554";
const LOSS: Loss = Loss { every: 10, in_all: 40 };

fn stage_and_camera(more: &str) -> Result<(Stage, Camera)> {
    let toml = format!("[streams.e2e]\nsource = \"rtsp://{ADDRESS}/live\"\n[rtcp]\n{more}\n");
    // First, since it takes a while, and a server waits longer each time that it finds no camera.
    let behaviour = Behaviour::plain(Content::H264(H264::long_gop()?));
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    let camera = Camera::start(&stage.near, ADDRESS.parse::<SocketAddr>()?, behaviour)?;
    stage.until("the camera plays", || Ok(stage.source_of("e2e")?["state"] == "playing"))?;
    Ok((stage, camera))
}

/// A viewer of video alone that loses packets.
fn unlucky(stage: &Stage) -> Options {
    Options { video: vec![Codec::H264], audio: vec![], loses: Some(LOSS), ..stage.playing() }
}

fn counted(stage: &Stage, name: &str) -> Result<u64> {
    Ok(stage.server.get("/api/v1/state")?["counters"]["control"][name].as_u64().unwrap_or_default())
}

fn track(stage: &Stage, session: usize) -> Result<Value> {
    Ok(stage.server.get("/api/v1/state")?["sessions"][session]["tracks"][0].clone())
}

fn opens_all(stats: &Stats) -> bool {
    stats.video.decrypted == stats.video.packets && stats.failed.is_none()
}

/// One loses some, another nothing. (A test peer does not ask for what lies a hundred packets back, so there is no
/// keyframe cache here, whose past comes all at once.)
#[test]
fn a_viewer_gets_again_what_it_lost() -> Result<()> {
    let (stage, _camera) = stage_and_camera("nack = true")?;
    let viewers = stage.play(1, &Source::None, unlucky(&stage))?;
    let lucky = stage.play(1, &Source::None, Options { loses: None, ..unlucky(&stage) })?;
    // What a peer without a processor asks for too late does not come: most of it must.
    stage.until("all that was to be lost is lost, and little is missing", || {
        let stats = &viewers.stats()[0];
        Ok(stats.video.gone_astray == LOSS.in_all && stats.video.lost * 4 <= LOSS.in_all && opens_all(stats))
    })?;
    // The state that is asked for may be a second old.
    stage.until("what is not missing was sent again", || {
        let missing = viewers.stats()[0].video.lost;
        Ok((LOSS.in_all - missing..10 * LOSS.in_all).contains(&counted(&stage, "retransmissions")?))
    })?;
    let (missing, again) = (viewers.stats()[0].video.lost, counted(&stage, "retransmissions")?);
    println!("{} lost, {again} sent again, {missing} missing", LOSS.in_all);
    let other = lucky.stats().remove(0);
    ensure!(opens_all(&other), "{other:#?}");
    stage.assert_counted(other.video.lost.max(other.video.reordered), 1)?;
    let (track, other) = (track(&stage, 0)?, track(&stage, 1)?);
    ensure!(track["nack"] == true && other["nack"] == true, "{track}, {other}");
    let sent_again = |track: &Value| track["retransmitted"].as_u64().unwrap_or_default();
    ensure!(sent_again(&track) + sent_again(&other) >= again, "{track}, {other}");
    // Nothing for the one that lost nothing, but for what a full ring took from it.
    stage.assert_counted(sent_again(&other), 1)?;
    Ok(())
}

/// Nobody is offered what is not kept.
#[test]
fn without_nack_what_is_lost_stays_lost() -> Result<()> {
    let (stage, _camera) = stage_and_camera("nack = false")?;
    let viewers = stage.play(1, &Source::None, unlucky(&stage))?;
    stage.until("all that was to be lost is lost", || {
        Ok(viewers.stats()[0].video.gone_astray == LOSS.in_all && viewers.stats()[0].video.lost > 0)
    })?;
    let (packets, lost) = (viewers.stats()[0].video.packets, viewers.stats()[0].video.lost);
    stage.until("time passes", || Ok(viewers.stats()[0].video.packets > packets + 100))?;
    ensure!(viewers.stats()[0].video.lost >= lost && counted(&stage, "retransmissions")? == 0);
    ensure!(track(&stage, 0)?["nack"] == false, "{}", track(&stage, 0)?);
    Ok(())
}

/// What the kernel forwards is kept by the kernel, and sent again by us: by RTX, which test peers offer.
#[test]
fn a_viewer_of_the_kernel_gets_again_what_it_lost() -> Result<()> {
    get_again("")
}

/// The same of what is opened in userspace.
#[test]
fn a_viewer_of_a_userspace_stream_gets_again_what_it_lost() -> Result<()> {
    get_again("[media]\nengine = \"userspace\"\n")
}

fn get_again(toml: &str) -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", toml)?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, Options { loses: Some(LOSS), ..stage.playing() })?;
    stage.until("all that was to be lost is lost, and little is missing", || {
        Ok(viewers.stats().iter().all(|stats| {
            stats.video.gone_astray == LOSS.in_all && stats.video.lost * 4 <= LOSS.in_all && opens_all(stats)
        }))
    })?;
    let again = counted(&stage, "retransmissions")?;
    let lost: Vec<_> = viewers.stats().iter().map(|stats| stats.video.lost).collect();
    println!("{} lost by each, {again} sent again, {lost:?} missing", LOSS.in_all);
    let state = stage.server.get("/api/v1/state")?;
    let sessions = state["sessions"].as_array().into_iter().flatten();
    let tracks = sessions.filter(|session| session["role"] == "subscriber").flat_map(|one| one["tracks"].as_array());
    let video: Vec<&Value> = tracks.flatten().filter(|track| track["kind"] == "video").collect();
    ensure!(video.iter().all(|track| track["nack"] == true && track["rtx"] == true), "{state}");
    ensure!(counted(&stage, "retransmissions_damaged")? == 0, "{state}");
    publisher.stop()?;
    Ok(())
}
