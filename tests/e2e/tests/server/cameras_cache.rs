//! The keyframe cache: viewers of a camera whose keyframes are ten seconds apart begin at once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera};
use tests_kit::clip::Clip;
use tests_kit::peer::{Codec, Kind, Options, Source};
use tests_kit::stage::{BOTH, Layout, Stage, clip};

const ADDRESS: &str = "10.60.0.2:8554";
/// Frames a second.
const RATE: u64 = 25;

fn stage_and_camera(content: Content, more: &str) -> Result<(Stage, Camera)> {
    let toml = format!("[streams.e2e]\nsource = \"rtsp://{ADDRESS}/live\"\nkeyframe_cache = true\n{more}\n");
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    let camera = Camera::start(&stage.near, ADDRESS.parse::<SocketAddr>()?, Behaviour::plain(content))?;
    stage.until("the camera plays", || Ok(stage.source_of("e2e")?["state"] == "playing"))?;
    Ok((stage, camera))
}

fn cache(stage: &Stage) -> Result<Value> {
    Ok(stage.source_of("e2e")?["keyframe_cache"].clone())
}

fn counted(cache: &Value, name: &str) -> u64 {
    cache[name].as_u64().unwrap_or_default()
}

fn h264(stage: &Stage) -> Options {
    Options { video: vec![Codec::H264], audio: vec![Codec::PCMA], ..stage.playing() }
}

/// Three join some seconds after a keyframe: what each of them gets begins with parameter sets and a keyframe,
/// has every packet since, and goes on without a seam.
#[test]
fn a_viewer_begins_with_the_last_keyframe() -> Result<()> {
    let (stage, _camera) = stage_and_camera(Content::H264(H264::long_gop()?), "")?;
    // On a busy machine joining may take until the next keyframe, and shows nothing then.
    let mut rounds = 0;
    let (viewers, kept) = loop {
        ensure!(rounds < 5, "a keyframe came each time before all had what was kept");
        rounds += 1;
        // Somewhat more than a hundred a second.
        stage.until("four seconds are kept", || Ok(counted(&cache(&stage)?, "packets") > 450))?;
        let kept = counted(&cache(&stage)?, "packets");
        let viewers = stage.play(3, &Source::None, h264(&stage))?;
        stage.until("all have what was kept", || Ok(viewers.stats().iter().all(|one| one.video.packets >= kept)))?;
        if counted(&cache(&stage)?, "packets") >= kept {
            break (viewers, kept);
        }
        viewers.stop()?;
    };
    for (number, stats) in viewers.stats().iter().enumerate() {
        let (connected, first) = (stats.connected.unwrap_or_default(), stats.first_packet.unwrap_or_default());
        println!("viewer {number} of {kept} packets: connected after {connected:?}, first packet after {first:?}");
        // STAP-A of the parameter sets, which the camera sends in its description only.
        ensure!(stats.video.first_payload.first() == Some(&0x78), "{:x?}", stats.video.first_payload);
    }
    let now = viewers.stats()[0].video.packets;
    stage.until("it goes on", || Ok(viewers.stats().iter().all(|one| one.video.packets > now + 2 * RATE)))?;
    stage.until("each start is counted", || Ok(counted(&cache(&stage)?, "hits") == 3 * rounds))?;
    let after = cache(&stage)?;
    ensure!(counted(&after, "misses") == 0, "{after}");
    ensure!(counted(&after, "bytes") <= counted(&after, "limit") && counted(&after, "overflows") == 0, "{after}");
    let mut lost = 0;
    for stats in viewers.stop()? {
        let video = &stats.video;
        let wrong = (video.duplicates, video.reordered, video.packets - video.decrypted);
        ensure!(wrong == (0, 0, 0), "{stats:#?}");
        lost += video.lost;
    }
    stage.assert_counted(lost, 3)
}

/// Bit by bit: the clip's keyframes are a second apart.
#[test]
fn every_frame_is_as_it_was_sent() -> Result<()> {
    let (stage, _camera) = stage_and_camera(Content::Clip(Clip::load(&Clip::directory())?), "")?;
    stage.until("something is kept", || Ok(counted(&cache(&stage)?, "packets") > 10))?;
    let mut viewers = stage.play(1, &clip()?, stage.playing())?;
    for number in 1..5 {
        std::thread::sleep(Duration::from_millis(170));
        viewers.join()?;
        stage.flows(&viewers, &[number], Kind::Video, 10)?;
    }
    stage.flows(&viewers, &[0, 1, 2, 3, 4], Kind::Video, 40)?;
    stage.until("each start is counted", || Ok(counted(&cache(&stage)?, "hits") == 5))?;
    let stats = viewers.stop()?;
    ensure!(stats.iter().all(|one| one.video.jumps == 0), "frames are missing between the past and the present");
    stage.assert_exact(&stats, &BOTH)?;
    Ok(())
}

/// What does not fit is let go; viewers then begin as if there were no cache.
#[test]
fn its_memory_is_bounded() -> Result<()> {
    let (stage, camera) =
        stage_and_camera(Content::H264(H264::long_gop()?), "keyframe_cache_kb = 64\n[rtcp]\nnack = false")?;
    stage.until("it has overflown", || {
        let cache = cache(&stage)?;
        ensure!(counted(&cache, "bytes") <= 64 << 10, "{cache}");
        Ok(counted(&cache, "overflows") == 1)
    })?;
    let viewers = stage.play(1, &Source::None, h264(&stage))?;
    stage.until("the viewer gets what comes", || Ok(viewers.stats()[0].video.packets > RATE))?;
    // What the API tells may be a second old.
    stage.until("the start is counted", || Ok(counted(&cache(&stage)?, "misses") == 1))?;
    let after = cache(&stage)?;
    ensure!(counted(&after, "hits") == 0, "{after}");
    let metrics = stage.server.get_text("/metrics")?;
    ensure!(metrics.contains("penstock_keyframe_cache_starts_total{result=\"miss\"} 1"), "{metrics}");
    ensure!(metrics.contains("penstock_keyframe_cache_overflows_total 1"), "{metrics}");
    viewers.stop()?;
    // Nothing is kept of a camera that has gone.
    drop(camera);
    stage.until("nothing is kept", || Ok(counted(&cache(&stage)?, "bytes") == 0))?;
    Ok(())
}
