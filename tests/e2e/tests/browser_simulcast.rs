//! Chromium publishes a picture in three sizes: its viewers get the largest, in whatever order the page names them.

use anyhow::{Result, ensure};
use tests_kit::browser::watch::START;
use tests_kit::browser::{Browser, count};
use tests_kit::stage::Stage;

const WIDTH: u64 = 960;

/// A page's camera, and its picture in layers of these names; each `h` and `q` has a half and a quarter of the size.
fn camera(layers: &str) -> String {
    format!(
        "const media = navigator.mediaDevices, capture = media?.getUserMedia.bind(media);
        if (capture) media.getUserMedia = () => capture({{
            audio: true, video: {{ width: {WIDTH}, height: 540, frameRate: 10 }} }});
        const add = RTCPeerConnection.prototype.addTransceiver;
        RTCPeerConnection.prototype.addTransceiver = function (track, options) {{
            const scale = {{ f: 1, h: 2, q: 4 }};
            const sendEncodings = '{layers}'.split(';').map(rid => ({{ rid, scaleResolutionDownBy: scale[rid] }}));
            const video = track.kind === 'video';
            const transceiver = add.call(this, track, video ? {{ ...options, sendEncodings }} : options);
            if (video) transceiver.setCodecPreferences(
                RTCRtpSender.getCapabilities('video').codecs.filter(codec => codec.mimeType === 'video/VP8'));
            return transceiver;
        }};"
    )
}

fn arrives_whole(layers: &str) -> Result<()> {
    let stage = Stage::apart("")?;
    let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
    let viewing = Browser::launch("viewer", stage.viewers(), None)?;
    stage.explain((|| {
        let page = publishing.open_with(&format!("{}/layers/publish", stage.publishing_origin()), &camera(layers))?;
        page.evaluate("document.getElementById('start').click()")?;
        let viewer = viewing.open(&format!("{}/layers", stage.viewing_origin()))?;
        viewer.wait_for_stats("the picture has its full width", START, |stats| {
            count(stats.inbound("video"), "frameWidth") == WIDTH
        })?;
        ensure!(stage.server.logged("simulcast layers"), "the log does not tell of layers");
        Ok(())
    })())
}

#[test]
fn the_largest_layer_named_last() -> Result<()> {
    arrives_whole("q;h;f")
}

#[test]
fn the_largest_layer_named_first() -> Result<()> {
    arrives_whole("f;h;q")
}
