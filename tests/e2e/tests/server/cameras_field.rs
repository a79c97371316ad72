//! Cameras as they are: each row is a report of the field, scripted, and plays.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera, Quirk, Scheme};
use tests_kit::clip::Clip;
use tests_kit::peer::{Codec, Kind, Options, Source, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, clip, ip};

/// Address of the cameras.
const HOST: &str = "10.60.0.2";
const FIRST_PORT: u16 = 9000;
const USER: (&str, &str) = ("me", "s3cret");

/// A camera: a name, what its stream's table has beside `source`, and what it does.
struct Row {
    name: &'static str,
    more: &'static str,
    password: Option<Scheme>,
    quirks: Vec<Quirk>,
}

fn row(name: &'static str, quirks: &[Quirk]) -> Row {
    Row { name, more: "", password: None, quirks: quirks.to_vec() }
}

fn asked(name: &'static str, scheme: Scheme, quirks: &[Quirk]) -> Row {
    Row { password: Some(scheme), ..row(name, quirks) }
}

fn behaviour(row: &Row) -> Result<Behaviour> {
    let mut behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
    behaviour.quirks = row.quirks.clone();
    behaviour.password = row.password.map(|scheme| (USER.0, USER.1, scheme));
    Ok(behaviour)
}

/// A server with a stream of its own for each row, and their cameras.
fn stage(rows: &[Row]) -> Result<(Stage, Vec<Camera>)> {
    let mut toml = String::new();
    for (port, row) in (FIRST_PORT..).zip(rows) {
        let (user, password) = USER;
        toml += &format!(
            "[streams.{}]\nsource = \"rtsp://{user}:{password}@{HOST}:{port}/live\"\n{}\n",
            row.name, row.more
        );
    }
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    let start = |(port, row): (u16, &Row)| {
        Camera::start(&stage.near, SocketAddr::new(ip(HOST), port), behaviour(row)?).context(row.name)
    };
    let cameras = (FIRST_PORT..).zip(rows).map(start).collect::<Result<_>>()?;
    Ok((stage, cameras))
}

/// Each plays, goes on playing through two sessions' worth of signs of life, and loses nothing.
fn all_play(rows: &[Row]) -> Result<Stage> {
    let (stage, cameras) = stage(rows)?;
    for row in rows {
        let playing = stage.until(row.name, || Ok(stage.source_of(row.name)?["state"] == "playing"));
        playing.with_context(|| format!("{}: {}", row.name, stage.source_of(row.name).unwrap_or_default()))?;
    }
    std::thread::sleep(Duration::from_secs(9));
    for row in rows {
        let source = stage.source_of(row.name)?;
        let plays = source["state"] == "playing" && source["connections"] == 1 && source["lost"] == 0;
        ensure!(plays && source["packets"].as_u64() > Some(200), "{}: {source:#}", row.name);
    }
    let log = stage.server.log();
    ensure!(!log.contains(USER.1), "the password is in the log");
    drop(cameras);
    Ok(stage)
}

fn dropped(source: &Value, reason: &str) -> u64 {
    source["dropped"][reason].as_u64().unwrap_or(0)
}

/// Section A of the field's report: text that nobody needs.
#[test]
fn text_that_nobody_needs() -> Result<()> {
    // mediamtx#990, mediamtx#121, gortsplib#618, gortsplib#85, a name in GBK.
    const LINES: &[u8] =
        b"v=0\r\no=- 14665860 31787219 1 IN IP4 127.0.0.1\r\ns=\xc9\xe3\xcf\xf1\r\nt=now-\r\nc=IN \r\nk=\r\n";
    const SHORT: &[u8] = b"o=RTSP 16381778200090761968 16381778200090839277 IN IP4 \r\nt=0 0\r\nno line\r\n=\r\n";
    let stage = all_play(&[
        row("line-feeds", &[Quirk::LineFeeds]),
        row("no-reason", &[Quirk::NoReason]),
        row("no-cseq", &[Quirk::NoCseq]),
        row("wrong-cseq", &[Quirk::WrongCseq]),
        row("odd-headers", &[Quirk::OddHeaders]),
        row("all-of-these", &[Quirk::LineFeeds, Quirk::NoReason, Quirk::NoCseq, Quirk::OddHeaders, Quirk::NoTransport]),
        row("session-lines", &[Quirk::SessionLines(LINES)]),
        row("short-lines", &[Quirk::SessionLines(SHORT)]),
        // go2rtc#679.
        row("no-session-lines", &[Quirk::SessionLines(b"")]),
        row("no-length", &[Quirk::NoLength]),
        row("no-length-lf", &[Quirk::NoLength, Quirk::LineFeeds]),
        row("stray", &[Quirk::StrayBytes]),
    ])?;
    let source = stage.source_of("stray")?;
    ensure!(source["stray_bytes"].as_u64() > Some(1000), "{source:#}");
    let metrics = stage.server.get_text("/metrics")?;
    ensure!(metrics.contains("penstock_source_stray_bytes_total "), "{metrics}");
    Ok(())
}

/// `WWW-Authenticate` as the field sends it: what can be read is answered.
#[test]
fn challenges() -> Result<()> {
    let stage = all_play(&[
        asked(
            "no-comma",
            Scheme::Digest,
            &[Quirk::Challenge(b"WWW-Authenticate: Digest realm=\"camera\" nonce=\"0123456789abcdef\"\r\n")],
        ),
        asked(
            "unquoted",
            Scheme::Digest,
            &[Quirk::Challenge(b"WWW-Authenticate: Digest realm=camera,nonce=0123456789abcdef\r\n")],
        ),
        asked(
            "tabs",
            Scheme::Digest,
            &[Quirk::Challenge(b"www-authenticate:\tDigest\trealm=\"camera\",\tnonce=\"0123456789abcdef\"\r\n")],
        ),
        asked("alone", Scheme::Basic, &[Quirk::Challenge(b"WWW-Authenticate: Basic\r\n")]),
        asked("blank", Scheme::Basic, &[Quirk::Challenge(b"WWW-Authenticate: Basic realm=IP Camera \xc9\xe3\r\n")]),
        asked(
            "unreadable-first",
            Scheme::Basic,
            &[Quirk::Challenge(b"WWW-Authenticate: Digest \xff\r\nWWW-Authenticate: Basic realm=\"x\"\r\n")],
        ),
        asked(
            "unknown-hash-first",
            Scheme::Digest,
            &[Quirk::Challenge(
                b"WWW-Authenticate: Digest realm=\"camera\", nonce=\"1\", algorithm=WHIRLPOOL\r\n\
                  WWW-Authenticate: Digest realm=\"camera\", nonce=\"0123456789abcdef\", algorithm=\"MD5\"\r\n",
            )],
        ),
        // retina#45.
        asked("hangs-up", Scheme::Digest, &[Quirk::ClosesBehind401]),
        // RFC 7616 §3.3.
        asked("new-nonces", Scheme::Digest, &[Quirk::NewNonces]),
        row("refuses-signs", &[Quirk::RefusesSigns(501)]),
        row("refuses-signs-by-a-wrong-number", &[Quirk::RefusesSigns(400), Quirk::WrongCseq]),
        row("asks", &[Quirk::Asks]),
        row("another-session", &[Quirk::OddSession]),
        row("session-not-found", &[Quirk::RefusesSigns(454)]),
        row("method-not-valid", &[Quirk::RefusesSigns(455)]),
        row("silent-play", &[Quirk::SilentPlay]),
    ])?;
    drop(stage);
    let unknown = Quirk::Challenge(b"WWW-Authenticate: Negotiate\r\nWWW-Authenticate: \r\n");
    let (stage, _cameras) = self::stage(&[asked("nothing-known", Scheme::Digest, &[unknown])])?;
    stage.until("it is said", || Ok(stage.source_of("nothing-known")?["error"] == "unknown_challenge"))?;
    // And what to change, when it does not mend itself.
    stage.until("it is advised", || Ok(stage.source_of("nothing-known")?["advice"].is_string()))?;
    ensure!(stage.server.log().contains("it does not mend itself"), "{}", stage.server.log());
    Ok(())
}

/// A camera that hangs up when it is asked for a parameter is asked for none again.
#[test]
fn signs_of_life_that_a_camera_does_not_bear() -> Result<()> {
    let (stage, _cameras) = stage(&[row("hangs-up", &[Quirk::HangsUpOnSigns])])?;
    let connections = || -> Result<u64> { Ok(stage.source_of("hangs-up")?["connections"].as_u64().unwrap_or(0)) };
    stage.until("it has hung up once, and plays again", || Ok(connections()? == 2))?;
    // Two sessions' worth of signs of life.
    std::thread::sleep(Duration::from_secs(9));
    ensure!(connections()? == 2, "{}", stage.source_of("hangs-up")?);
    Ok(())
}

/// Section B: one bad part costs itself; other transports than asked for; section F: addresses.
#[test]
fn parts_transports_and_addresses() -> Result<()> {
    let stage = all_play(&[
        row("backchannel", &[Quirk::Backchannel]),
        row("second-format", &[Quirk::VideoFormats("26 96")]),
        row("refuses-audio", &[Quirk::RefusesTrack(1, 404)]),
        row("refuses-video", &[Quirk::RefusesTrack(0, 500)]),
        row("bad-request-for-tcp", &[Quirk::RefusesTcp(400)]),
        row("no-tcp", &[Quirk::RefusesTcp(461)]),
        row("grants-udp", &[Quirk::GrantsUdp]),
        // gortsplib#72: [4 5] for [2 3].
        row("other-channels", &[Quirk::OtherChannels]),
        row("rtcp-among-rtp", &[Quirk::RtcpAmongRtp]),
        row("other-source", &[Quirk::RefusesTcp(461), Quirk::Source([10, 60, 0, 3])]),
        row("query-control", &[Quirk::QueryControl]),
        row("absolute-control", &[Quirk::AbsoluteControl]),
        asked("redirects", Scheme::Digest, &[Quirk::Redirects("rtsp://10.60.0.2:9013/live")]),
        asked("redirected-to", Scheme::Digest, &[]),
        row("other-path", &[Quirk::EarlyMedia]),
    ])?;
    let codecs = |name: &str| -> Result<String> { Ok(stage.source_of(name)?["codecs"].to_string()) };
    ensure!(codecs("backchannel")?.contains("opus"), "{}", codecs("backchannel")?);
    ensure!(!codecs("refuses-audio")?.contains("opus"), "{}", codecs("refuses-audio")?);
    ensure!(!codecs("refuses-video")?.contains("VP8"), "{}", codecs("refuses-video")?);
    let left_out = stage.source_of("refuses-audio")?["left_out"].to_string();
    ensure!(left_out.contains("404"), "{left_out}");
    Ok(())
}

/// A camera sends us to this machine, out of RTSP, or round in circles: nobody goes, and it is said.
#[test]
fn redirects_that_nobody_follows() -> Result<()> {
    let (stage, _cameras) = stage(&[
        row("inside", &[Quirk::Redirects("rtsp://127.0.0.1:8554/live")]),
        row("scheme", &[Quirk::Redirects("http://10.60.0.2:9001/live")]),
        row("circle", &[Quirk::Redirects("rtsp://10.60.0.2:9002/live")]),
    ])?;
    for name in ["inside", "scheme", "circle"] {
        stage.until(name, || Ok(stage.source_of(name)?["error"] == "redirect"))?;
    }
    Ok(())
}

/// Section C: the first keyframe stands before PLAY's answer, or in one segment with it. Viewers see every frame.
#[test]
fn nothing_around_play_is_lost() -> Result<()> {
    let quirks = [Quirk::EarlyMedia, Quirk::StrayBytes, Quirk::LineFeeds];
    let toml = format!("[streams.e2e]\nsource = \"rtsp://{HOST}:{FIRST_PORT}/live\"\n");
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    let mut behaviour = behaviour(&row("e2e", &quirks))?;
    let camera = Camera::start(&stage.near, SocketAddr::new(ip(HOST), FIRST_PORT), behaviour.clone())?;
    stage.until("the camera plays", || Ok(stage.source_of("e2e")?["state"] == "playing"))?;
    let source = stage.source_of("e2e")?;
    ensure!(dropped(&source, "before_keyframe") == 0 && source["lost"] == 0, "{source:#}");
    let viewers = stage.play(2, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 40)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    drop(camera);
    // The same of H.264, whose keyframes are ten seconds apart: one that is missed is missed for long.
    behaviour.content = Content::H264(H264::long_gop()?);
    let _camera = Camera::start(&stage.near, SocketAddr::new(ip(HOST), FIRST_PORT), behaviour)?;
    stage.until("it plays again", || Ok(stage.source_of("e2e")?["connections"] == 2))?;
    let source = stage.source_of("e2e")?;
    ensure!(dropped(&source, "before_keyframe") == 0 && source["lost"] == 0, "{source:#}");
    Ok(())
}

/// On demand with a keyframe cache: a viewer has the first packet of a picture within 300 ms of its connection, in
/// twenty of twenty starts. The camera's keyframes are ten seconds apart, so the first must not be missed.
#[test]
fn twenty_starts_on_demand() -> Result<()> {
    const STARTS: usize = 20;
    let table = |start: usize| {
        let port = FIRST_PORT + start as u16 % 2;
        format!("[streams.s{start}]\nsource = \"rtsp://{HOST}:{port}/live\"\non_demand = true\nkeyframe_cache = true\n")
    };
    let stage = Stage::new(Layout::OneNic, "native", &(0..STARTS).map(table).collect::<String>())?;
    let content = Content::H264(H264::long_gop()?);
    let mut early = Behaviour::plain(content.clone());
    early.quirks = vec![Quirk::EarlyMedia];
    let _plain = Camera::start(&stage.near, SocketAddr::new(ip(HOST), FIRST_PORT), Behaviour::plain(content))?;
    let _early = Camera::start(&stage.near, SocketAddr::new(ip(HOST), FIRST_PORT + 1), early)?;
    let mut slow = vec![];
    for start in 0..STARTS {
        let options = Options { video: vec![Codec::H264], audio: vec![Codec::PCMA], ..stage.playing() };
        let url = stage.whep().replace("e2e", &format!("s{start}"));
        let viewers = Viewers::start(&url, 1, Source::None, options)?;
        stage.until("the picture", || Ok(viewers.stats()[0].video.packets > 0))?;
        let stats = &viewers.stats()[0];
        let (connected, first) = (stats.connected.unwrap_or_default(), stats.first_packet.unwrap_or_default());
        let after = first.saturating_sub(connected);
        println!("start {start}: connected after {connected:?}, first packet {after:?} later");
        // STAP-A of the parameter sets: a keyframe follows.
        ensure!(stats.video.first_payload.first() == Some(&0x78), "{:x?}", stats.video.first_payload);
        if after > Duration::from_millis(300) {
            slow.push(after);
        }
        viewers.stop()?;
    }
    ensure!(slow.is_empty(), "{slow:?}");
    Ok(())
}

/// `site/door`: by RTSP, WHEP and the pages.
#[test]
fn names_with_slashes() -> Result<()> {
    let toml = format!("[streams.\"site/door\"]\nsource = \"rtsp://{HOST}:{FIRST_PORT}/live\"\n");
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    let _camera = Camera::start(&stage.near, SocketAddr::new(ip(HOST), FIRST_PORT), behaviour(&row("x", &[]))?)?;
    stage.until("the camera plays", || Ok(stage.source_of("site/door")?["state"] == "playing"))?;
    let url = stage.whep().replace("e2e", "site/door");
    let viewers = Viewers::start(&url, 1, clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 40)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    let page = stage.server.get_text("/site/door")?;
    ensure!(page.contains("play.js"), "{page}");
    ensure!(stage.server.get_text("/site/assets/play.js")?.contains("whep"));
    Ok(())
}
