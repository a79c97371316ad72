//! SIGHUP: what changes, what does not, and that nobody is disconnected by it.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::Content;
use tests_kit::camera::{Behaviour, Camera};
use tests_kit::clip::Clip;
use tests_kit::peer::{Kind, Offer, Options, Viewers};
use tests_kit::stage::{BOTH, Layout, PATIENCE, Stage, clip, synthetic};
use tests_kit::whip::Client;

const READ: &str = "SIGHUP: read the configuration, changed: ";

fn reload(stage: &Stage, more: &str, expected: &str) -> Result<()> {
    stage.server.configure(&stage.settings, more)?;
    stage.server.signal(libc::SIGHUP)?;
    stage.server.wait_log(expected, PATIENCE)
}

/// As OBS and GStreamer offer SRTP.
fn old(options: Options) -> Options {
    Options { profiles: Offer::CmSha1, ..options }
}

#[test]
fn profiles_change_for_new_sessions_only() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "")?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let modern = stage.play(2, &source, stage.playing())?;
    let aged = stage.play(2, &source, old(stage.playing()))?;
    for viewers in [&modern, &aged] {
        stage.flows(viewers, &[0, 1], Kind::Video, 50)?;
    }

    reload(&stage, "[media]\nsrtp_profiles = [\"gcm\"]\n", &format!("{READ}media.srtp_profiles"))?;
    let refused = Viewers::start(&stage.whep(), 1, source.clone(), old(stage.playing()))?;
    stage.server.wait_log("which `media.srtp_profiles` does not have", PATIENCE)?;
    stage.until("the refused viewer is gone", || {
        Ok(stage.server.get("/api/v1/state")?["sessions"].as_array().map(Vec::len) == Some(5))
    })?;
    ensure!(refused.stats()[0].video.packets == 0, "a viewer with a profile that is not allowed got media");
    drop(refused);
    let more = stage.play(1, &source, stage.playing())?;
    stage.flows(&more, &[0], Kind::Video, 50)?;
    for viewers in [&modern, &aged] {
        stage.flows(viewers, &[0, 1], Kind::Video, 50)?;
    }

    let all = "[media]\nsrtp_profiles = [\"gcm\", \"aes-cm-sha1-80\"]\n[log]\nlevel = \"info,penstock=debug\"\n";
    reload(&stage, all, &format!("{READ}log.level, media.srtp_profiles"))?;
    let again = stage.play(1, &source, old(stage.playing()))?;
    stage.flows(&again, &[0], Kind::Video, 50)?;
    stage.rest(&publisher, &modern)?;
    for viewers in [modern, aged, more, again] {
        stage.assert_exact(&viewers.stop()?, &BOTH)?;
    }
    Ok(())
}

#[test]
fn a_mistake_changes_nothing_and_is_named() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[auth]\napi_token = \"first\"\n")?;
    let state = |token: &str| {
        let client = Client { namespace: Some(stage.host.name().into()), token: Some(token.into()) };
        Ok::<_, anyhow::Error>(client.request("GET", "http://10.60.0.1:8080/api/v1/state", &[], None)?.status)
    };
    ensure!((state("first")?, state("second")?) == (200, 401));
    for (wrong, why) in [
        ("[auth]\napi_token = \"second\"\n[media]\nprot = 1\n", "unknown field `prot`"),
        ("[auth]\napi_token = \"second\"\n[media]\nport = 0\n", "media.port: 0 is not between"),
        ("[auth]\napi_token = \"second\"\n[log]\nlevel = \"info,=,\"\n", "log.level"),
        ("[auth\n", "penstock.toml: "),
    ] {
        let logged = stage.server.log().lines().count();
        reload(&stage, wrong, "nothing is changed, the configuration cannot be used")?;
        stage.until("the log says why", || {
            Ok(stage.server.log().lines().skip(logged).collect::<Vec<_>>().join("\n").contains(why))
        })?;
        ensure!((state("first")?, state("second")?) == (200, 401), "{wrong}");
    }
    let restart = "[auth]\napi_token = \"second\"\n[limits]\nsessions = 7\n";
    reload(&stage, restart, "these need a restart: limits.sessions")?;
    stage.server.wait_log(&format!("{READ}auth.api_token"), PATIENCE)?;
    ensure!((state("first")?, state("second")?) == (401, 200));
    Ok(())
}

const CAMERA: &str = "10.60.0.2:8554";

fn stream(name: &str, transport: &str) -> String {
    format!("[streams.{name}]\nsource = \"rtsp://{CAMERA}/live\"\ntransport = \"{transport}\"\n")
}

#[test]
fn cameras_come_change_and_go() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", &stream("other", "tcp"))?;
    let behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
    let camera = Camera::start(&stage.near, CAMERA.parse()?, behaviour)?;
    let source = |name: &str| -> Result<Value> {
        let state = stage.server.get("/api/v1/state")?;
        let mut streams = state["streams"].as_array().into_iter().flatten();
        Ok(streams.find(|one| one["name"] == name).map(|one| one["source"].clone()).unwrap_or_default())
    };
    let plays = |name: &str| stage.until("the camera plays", || Ok(source(name)?["state"] == "playing"));
    plays("other")?;
    reload(&stage, &(stream("other", "tcp") + &stream("e2e", "tcp")), &format!("{READ}streams.e2e"))?;
    plays("e2e")?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;

    // Changed: the viewer goes on, by the new connection.
    stage.server.configure(&stage.settings, &(stream("other", "tcp") + &stream("e2e", "udp")))?;
    stage.server.signal(libc::SIGHUP)?;
    stage.until("the camera serves by UDP", || Ok(stage.server.log().matches("media comes").count() == 3))?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;

    // Gone, and back: the viewer waits.
    stage.server.configure(&stage.settings, &stream("other", "tcp"))?;
    stage.server.signal(libc::SIGHUP)?;
    stage.until("the source is gone", || Ok(source("e2e")?.is_null() && camera.playing() == 1))?;
    let state = stage.server.get("/api/v1/state")?;
    ensure!(state["sessions"].as_array().map(Vec::len) == Some(1), "the viewer was sent away: {state:#}");
    stage.server.configure(&stage.settings, &(stream("other", "tcp") + &stream("e2e", "tcp")))?;
    stage.server.signal(libc::SIGHUP)?;
    plays("e2e")?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    ensure!(source("other")?["connections"] == 1, "another stream was touched: {}", source("other")?);
    Ok(())
}

#[test]
fn cameras_beyond_the_tables_are_refused_by_name() -> Result<()> {
    let limits = "[limits]\npublisher_tracks = 1\n";
    let stage = Stage::new(Layout::OneNic, "native", limits)?;
    let behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
    let _camera = Camera::start(&stage.near, CAMERA.parse()?, behaviour)?;
    let more = format!("{limits}{}", stream("e2e", "tcp"));
    reload(&stage, &more, "1 streams with a source more than at the start")?;
    // Video and sound: one track too many.
    stage.until("the log says what is full", || {
        Ok(stage.server.logged("the table of incoming tracks is full (1 entries): raise `limits.publisher_tracks`"))
    })?;
    let source = stage.source_of("e2e")?;
    ensure!(source["error"] == "engine", "{source:#}");
    Ok(())
}
