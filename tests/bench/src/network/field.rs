//! A publisher and a viewer in browsers of their own, lines between them, and a server or none in the middle.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests_kit::{
    browser::{Browser, Page, count, watch::START},
    line::{BadLine, Line},
    stage::Stage,
};

use super::cells::{Cell, Event, QUEUE, Whose};

/// When something happens to a line, from the beginning of the measurement on.
const BEFORE_EVENT: Duration = Duration::from_secs(5);
/// Under load before anything is measured.
const WARM_UP: Duration = Duration::from_secs(5);

/// What is in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// The server, by whatever engine it chooses.
    Kernel,
    /// The server, by the userspace engine.
    Userspace,
    /// A router: the two browsers talk to each other.
    Nobody,
}

impl Middle {
    /// All, in the order of the table.
    pub const ALL: [Middle; 3] = [Middle::Kernel, Middle::Userspace, Middle::Nobody];

    /// In tables and options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Middle::Kernel => "kernel",
            Middle::Userspace => "userspace",
            Middle::Nobody => "p2p",
        }
    }

    const fn config(self) -> &'static str {
        match self {
            Middle::Userspace => "[media]\nengine = \"userspace\"\n",
            Middle::Kernel | Middle::Nobody => "",
        }
    }
}

/// Counters of the server that each run shows, as the table heads them.
pub const COUNTERS: [(&str, &str); 8] = [
    ("packets_asked_for", "asked"),
    ("packets_repaired", "repaired"),
    ("packets_given_up", "given up"),
    ("retransmissions", "sent again"),
    ("retransmissions_not_kept", "not kept"),
    ("retransmissions_rate_limited", "limited"),
    ("keyframe_requests_sent", "keyframes"),
    ("packets_told_missing", "told missing"),
];

/// What one run has shown.
#[derive(Clone, Debug)]
pub struct Run {
    /// Seconds of each minute in gaps above 200 ms between frames shown, one that is open at the end included.
    pub stalled: f64,
    /// Frames shown in a second.
    pub shown: f64,
    /// What the publisher's encoder has sent, kbit/s, and its mean quantiser.
    pub sent_kbps: f64,
    pub qp: f64,
    /// By [`COUNTERS`]; without a server zeros.
    pub counters: [u64; COUNTERS.len()],
    /// Packets that the line has lost, in both directions.
    pub lost: u64,
}

/// A camera as the figures of the field had it: 640×360 at 25 frames a second, VP8 at 1.2 Mbit/s.
const CAMERA: &str = "const media = navigator.mediaDevices, capture = media?.getUserMedia.bind(media);
    if (capture) media.getUserMedia = () => capture({
        audio: true, video: { width: 640, height: 360, frameRate: 25 } });
    const add = RTCPeerConnection.prototype.addTransceiver;
    RTCPeerConnection.prototype.addTransceiver = function (track, options) {
        const video = (track.kind ?? track) === 'video';
        const limited = video && typeof track !== 'string'
            ? { ...options, sendEncodings: [{ maxBitrate: 1200000 }] } : options;
        const transceiver = add.call(this, track, limited);
        if (video) transceiver.setCodecPreferences(
            RTCRtpSender.getCapabilities('video').codecs.filter(one => /VP8|rtx/.test(one.mimeType)));
        return transceiver;
    };";

/// Notes when frames are shown.
const NOTE: &str = "(() => {
    const video = document.querySelector('video');
    const shown = window.shown = { since: performance.now(), last: performance.now(), stalled: 0, frames: 0 };
    const note = now => {
        const gap = now - shown.last;
        if (gap > 200) shown.stalled += gap;
        shown.last = Math.max(now, shown.last);
        shown.frames += 1;
        video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
})()";

/// What was noted since: seconds in all, seconds stalled, frames.
const NOTED: &str = "(() => {
    const now = performance.now(), open = now - shown.last;
    return [(now - shown.since) / 1e3, (shown.stalled + (open > 200 ? open : 0)) / 1e3, shown.frames];
})()";

/// See the module.
pub struct Field {
    middle: Middle,
    publisher: Page,
    viewer: Page,
    _browsers: [Browser; 2],
    stage: Stage,
}

impl Field {
    /// Both are connected and the picture moves.
    ///
    /// # Errors
    /// Without root or Chromium, or when they do not get that far.
    pub fn new(middle: Middle) -> Result<Self> {
        let stage = Stage::with_lines(middle.config())?;
        let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewing = Browser::launch("viewer", stage.viewers(), None)?;
        let publisher = publishing.open_with(&format!("{}/field/publish", stage.publishing_origin()), CAMERA)?;
        let viewer = if middle == Middle::Nobody {
            route(&stage)?;
            // A page without scripts: the server's own would look for a stream that nobody publishes.
            let viewer = viewing.open(&format!("{}/healthz", stage.viewing_origin()))?;
            connect(&publisher, &viewer)?;
            viewer
        } else {
            publisher.evaluate("document.getElementById('start').click()")?;
            publisher
                .wait_for_stats("frames are sent", START, |stats| count(stats.outbound("video"), "framesSent") > 0)?;
            viewing.open(&format!("{}/field", stage.viewing_origin()))?
        };
        viewer.wait_for_stats("frames come", START, |stats| count(stats.inbound("video"), "framesDecoded") > 20)?;
        Ok(Self { middle, publisher, viewer, _browsers: [publishing, viewing], stage })
    }

    fn lines(&self) -> Result<&[BadLine; 2]> {
        self.stage.lines.as_ref().context("a stage without lines")
    }

    /// Tries a line for so long.
    ///
    /// # Errors
    /// When a browser or the server says nothing any more.
    pub fn try_cell(&self, cell: &Cell, time: Duration) -> Result<Run> {
        let lines = self.lines()?;
        let bad = &lines[usize::from(cell.whose == Whose::Viewer)];
        bad.set([cell.line; 2]);
        sleep(WARM_UP);
        let (before, sent, lost) = (self.counters()?, self.sent()?, lost(bad));
        let began = Instant::now();
        self.viewer.evaluate(NOTE)?;
        if cell.event != Event::Nothing {
            sleep(BEFORE_EVENT.min(time / 4));
        }
        match cell.event {
            Event::Nothing => {}
            Event::NewPort => bad.change_ports(1),
            Event::Narrow(rate, narrow) => {
                bad.set([Line { rate, queue: QUEUE, ..cell.line }; 2]);
                sleep(narrow.min(time / 2));
                bad.set([cell.line; 2]);
            }
        }
        sleep(time.saturating_sub(began.elapsed()));
        let noted = self.viewer.evaluate(NOTED)?;
        let number = |value: &Value| value.as_f64().context("the page has noted nothing");
        let [seconds, stalled, frames] = [number(&noted[0])?, number(&noted[1])?, number(&noted[2])?];
        let (after, now) = (self.counters()?, self.sent()?);
        let passed = began.elapsed().as_secs_f64();
        let run = Run {
            stalled: stalled * 60.0 / seconds,
            shown: frames / seconds,
            sent_kbps: (now.0 - sent.0) * 8.0 / 1000.0 / passed,
            qp: (now.1 - sent.1) / (now.2 - sent.2).max(1.0),
            counters: std::array::from_fn(|place| after[place].saturating_sub(before[place])),
            lost: lost_since(bad, lost),
        };
        bad.set([Line::default(); 2]);
        Ok(run)
    }

    fn counters(&self) -> Result<[u64; COUNTERS.len()]> {
        if self.middle == Middle::Nobody {
            return Ok([0; COUNTERS.len()]);
        }
        let state = self.stage.server.get("/api/v1/state")?;
        Ok(COUNTERS.map(|(name, _)| state["counters"]["control"][name].as_u64().unwrap_or_default()))
    }

    /// Bytes, sum of quantisers and frames that the publisher has sent.
    fn sent(&self) -> Result<(f64, f64, f64)> {
        let stats = self.publisher.stats()?;
        let video = stats.outbound("video");
        let number = |name: &str| video[name].as_f64().unwrap_or_default();
        Ok((number("bytesSent"), number("qpSum"), number("framesEncoded")))
    }
}

fn lost(line: &BadLine) -> u64 {
    line.seen().iter().map(|seen| seen.lost).sum()
}

fn lost_since(line: &BadLine, before: u64) -> u64 {
    lost(line).saturating_sub(before)
}

/// Makes the server's host a router between the two others.
fn route(stage: &Stage) -> Result<()> {
    let far = stage.far.as_ref().context("one interface alone")?;
    let run = |namespace: &tests_kit::netns::NetNs, program: &str, arguments: &[&str]| {
        let output = namespace.command(program).args(arguments).output()?;
        ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    run(&stage.host, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
    run(&stage.near, "ip", &["route", "add", "default", "via", "10.60.0.1"])?;
    run(far, "ip", &["route", "add", "default", "via", "10.61.0.1"])
}

/// Offer and answer between two pages, with all their candidates.
fn connect(publisher: &Page, viewer: &Page) -> Result<()> {
    const GATHERED: &str = "const gathered = pc => new Promise(done => {
        const look = () => pc.iceGatheringState === 'complete' && done(pc.localDescription.sdp);
        pc.onicegatheringstatechange = look; look();
    });";
    let text = |value: Value| value.as_str().map(str::to_owned).context("no description");
    let offer = text(publisher.evaluate(&format!(
        "(async () => {{ {GATHERED}
            const pc = new RTCPeerConnection();
            window.penstock = {{ pc }};
            const stream = await navigator.mediaDevices.getUserMedia({{ audio: true, video: true }});
            for (const track of stream.getTracks()) pc.addTransceiver(track, {{ direction: 'sendonly', streams: [stream] }});
            await pc.setLocalDescription();
            return gathered(pc);
        }})()"
    ))?)?;
    let answer = text(viewer.evaluate(&format!(
        "(async () => {{ {GATHERED}
            const pc = new RTCPeerConnection();
            const video = document.body.appendChild(document.createElement('video'));
            window.penstock = {{ pc }};
            pc.ontrack = event => {{ video.srcObject = event.streams[0]; video.muted = true; video.play(); }};
            await pc.setRemoteDescription({{ type: 'offer', sdp: {} }});
            await pc.setLocalDescription();
            return gathered(pc);
        }})()",
        Value::from(offer)
    ))?)?;
    let accepted = publisher.evaluate(&format!(
        "penstock.pc.setRemoteDescription({{ type: 'answer', sdp: {} }}).then(() => true)",
        Value::from(answer)
    ))?;
    if accepted != true {
        bail!("the publisher does not take the answer");
    }
    Ok(())
}
