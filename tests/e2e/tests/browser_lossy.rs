//! Chromium publishes and plays over lines that lose packets: what is lost is repaired before anybody sees it.
//!
//! Judged by counters, not by times: of the frames that the publisher encodes while the line is bad, nearly all are
//! decoded. Without repair Chromium stands still for three seconds after each loss.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests_kit::browser::watch::{START, plays, publish};
use tests_kit::browser::{Browser, Page, count, wait_until};
use tests_kit::line::Line;
use tests_kit::stage::Stage;

/// Packets that the line loses in a case. Most of them are sound, which Chromium does not ask for.
const LOST: u64 = 60;
/// Of these, those that must have been repaired.
const REPAIRED: u64 = 4;
/// Longest wait for them.
const PATIENCE: Duration = Duration::from_secs(240);

/// The line on which packets are lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Publisher,
    Viewer,
}

struct Scene {
    publisher: Page,
    viewer: Page,
    _browsers: [Browser; 2],
    stage: Stage,
}

impl Scene {
    fn new(more: &str) -> Result<Self> {
        let stage = Stage::with_lines(more)?;
        let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewing = Browser::launch("viewer", stage.viewers(), None)?;
        let publisher = publish(&publishing, &stage.publishing_origin(), "lossy", "VP8")?;
        let viewer = viewing.open(&format!("{}/lossy", stage.viewing_origin()))?;
        plays(&viewer)?;
        Ok(Self { publisher, viewer, _browsers: [publishing, viewing], stage })
    }

    fn counted(&self, name: &str) -> Result<u64> {
        Ok(self.stage.server.get("/api/v1/state")?["counters"]["control"][name].as_u64().unwrap_or_default())
    }

    fn engine_counted(&self, name: &str) -> Result<u64> {
        Ok(self.stage.server.get("/api/v1/state")?["counters"]["engine"][name].as_u64().unwrap_or_default())
    }

    /// Frames that the publisher has encoded, and that the viewer has decoded.
    fn frames(&self) -> Result<(u64, u64)> {
        let (sent, got) = (self.publisher.stats()?, self.viewer.stats()?);
        Ok((count(sent.outbound("video"), "framesEncoded"), count(got.inbound("video"), "framesDecoded")))
    }

    /// Makes a line bad until it has lost enough; what of the encoded frames was decoded meanwhile, of 100.
    fn lose(&self, whose: Whose, line: Line) -> Result<u64> {
        let Some(lines) = &self.stage.lines else { anyhow::bail!("a stage without lines") };
        // Lines begin at the server; media comes the other way from the publisher.
        let (bad, way) = if whose == Whose::Publisher { (&lines[0], 1) } else { (&lines[1], 0) };
        let before = self.frames()?;
        let lost = bad.seen()[way].lost;
        bad.set([line; 2]);
        wait_until("enough packets are lost", PATIENCE, || Ok((bad.seen()[way].lost >= lost + LOST).then_some(())))?;
        let after = self.frames()?;
        let seen = bad.seen()[way];
        bad.set([Line::default(); 2]);
        let (encoded, decoded) = (after.0 - before.0, after.1 - before.1);
        let stats = self.viewer.stats()?;
        let video = stats.inbound("video");
        println!(
            "{} of {} packets lost, {decoded} of {encoded} frames decoded; viewer: {} NACKs, {} PLIs, frozen {} s, \
             {} sent again; publisher: {} asked for, {} came, {} given up, {} by RTX, {} of it useless",
            seen.lost - lost,
            seen.packets,
            count(video, "nackCount"),
            count(video, "pliCount"),
            video["totalFreezesDuration"],
            self.counted("retransmissions")?,
            self.counted("packets_asked_for")?,
            self.counted("packets_repaired")?,
            self.counted("packets_given_up")?,
            self.engine_counted("repairs_unwrapped")?,
            self.engine_counted("repairs_useless")?,
        );
        ensure!(encoded > 0, "the publisher encoded nothing");
        Ok(decoded * 100 / encoded)
    }
}

fn case(more: &str, whose: Whose, loss: u32) -> Result<()> {
    let scene = Scene::new(more)?;
    scene.stage.explain((|| {
        let decoded = scene.lose(whose, Line { loss, delay: Duration::from_millis(10), ..Line::default() })?;
        ensure!(decoded >= 80, "only {decoded} % of the frames were decoded");
        let repaired = scene.counted(if whose == Whose::Viewer { "retransmissions" } else { "packets_repaired" })?;
        ensure!(repaired >= REPAIRED, "only {repaired} packets were repaired");
        ensure!(scene.counted("retransmissions_damaged")? == 0);
        // And on a good line all goes on.
        let frames = scene.frames()?.1;
        scene.viewer.wait_for_stats("frames go on", START, |stats| {
            count(stats.inbound("video"), "framesDecoded") >= frames + 30
        })?;
        Ok(())
    })())
}

#[test]
fn five_percent_on_the_viewers_line() -> Result<()> {
    case("", Whose::Viewer, 50)
}

#[test]
fn five_percent_on_the_publishers_line() -> Result<()> {
    case("", Whose::Publisher, 50)
}

#[test]
fn five_percent_on_the_publishers_line_to_the_userspace_engine() -> Result<()> {
    case("[media]\nengine = \"userspace\"\n", Whose::Publisher, 50)
}

/// A camera whose pictures take more than 2 Mbit/s, few enough for a busy machine.
const CAMERA: &str = "const media = navigator.mediaDevices, capture = media?.getUserMedia.bind(media);
    if (capture) media.getUserMedia = () => capture({
        audio: true, video: { width: 1280, height: 720, frameRate: 8 } });";

/// Each packet that carries a number is told to have come, those that go to nobody included: a publisher on a good line
/// learns of no loss, and finds out soon how much its line carries.
fn a_good_line_is_told_to_be_good(engine: &str) -> Result<()> {
    let stage = Stage::with_lines(&format!("[media]\nengine = \"{engine}\"\n"))?;
    let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
    stage.explain((|| {
        let page = publishing.open_with(&format!("{}/lossy/publish", stage.publishing_origin()), CAMERA)?;
        page.evaluate("document.getElementById('start').click()")?;
        let began = Instant::now();
        page.wait_for_stats("it may send 2 Mbit/s", START, |stats| {
            stats.selected_pair()["availableOutgoingBitrate"].as_f64().unwrap_or_default() > 2e6
        })?;
        println!("{engine}: its estimate passes 2 Mbit/s {:.1} s after the start", began.elapsed().as_secs_f64());
        let stats = page.wait_for_stats("enough is sent", START, |stats| {
            count(stats.outbound("video"), "packetsSent") > 300 && !stats.remote_inbound("video").is_null()
        })?;
        let told = |name: &str| {
            Ok::<_, anyhow::Error>(
                stage.server.get("/api/v1/state")?["counters"]["control"][name].as_u64().unwrap_or(0),
            )
        };
        let (received, missing) = (told("packets_told_received")?, told("packets_told_missing")?);
        println!("{received} packets told to have come, {missing} to be missing");
        ensure!(received > 500 && missing <= received / 500, "{missing} of {received} told to be missing");
        for kind in ["video", "audio"] {
            let lost = stats.remote_inbound(kind)["packetsLost"].as_i64().unwrap_or(0);
            ensure!(lost <= 0, "{lost} packets of {kind} lost: {stats}");
        }
        Ok(())
    })())
}

#[test]
fn on_a_good_line_nothing_is_told_to_be_lost() -> Result<()> {
    a_good_line_is_told_to_be_good("auto")
}

#[test]
fn on_a_good_line_nothing_is_told_to_be_lost_by_the_userspace_engine() -> Result<()> {
    a_good_line_is_told_to_be_good("userspace")
}

#[test]
fn five_percent_on_the_viewers_line_of_the_userspace_engine() -> Result<()> {
    case("[media]\nengine = \"userspace\"\n", Whose::Viewer, 50)
}

/// What the publisher may send follows its line, down and up again, and repairs do not fill a line that is too narrow.
#[test]
fn a_publisher_follows_its_line() -> Result<()> {
    let scene = Scene::new("")?;
    scene.stage.explain((|| {
        let Some(lines) = &scene.stage.lines else { anyhow::bail!("a stage without lines") };
        let allowed = |what: &str, fits: fn(f64) -> bool| {
            scene.publisher.wait_for_stats(what, PATIENCE, |stats| {
                fits(stats.selected_pair()["availableOutgoingBitrate"].as_f64().unwrap_or_default())
            })
        };
        // Chromium believes no more than half as much again as arrives, and 10 kbit/s: of this picture some 390 kbit/s,
        // unless what it sent to try the line at its begin came evenly, which it does not on a busy machine.
        allowed("it may send much", |bitrate| bitrate > 3.5e5)?;
        let narrow = Line { rate: 120_000, queue: Duration::from_millis(200), ..Line::default() };
        lines[0].set([narrow; 2]);
        let (before, asked) = (lines[0].seen()[1].packets, scene.counted("packets_asked_for")?);
        allowed("it is told that its line is narrow", |bitrate| bitrate < 3e5)?;
        let (sent, asked) = (lines[0].seen()[1].packets - before, scene.counted("packets_asked_for")? - asked);
        println!("{sent} packets sent until then, {asked} asked for");
        // A fifth of them, and what may be asked for in a second in any case.
        ensure!(asked <= sent / 5 + 40, "{asked} packets asked for, {sent} sent");
        lines[0].set([Line::default(); 2]);
        // As above, of a picture that has become small: it is enough that it rises above what was narrow.
        allowed("it may send more again", |bitrate| bitrate > 3.2e5).map(drop)
    })())
}
