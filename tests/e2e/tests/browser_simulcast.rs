//! Chromium publishes a picture in three sizes: its viewers get the largest that is sent, in whatever order the page names
//! them, and by whatever names.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::browser::watch::START;
use tests_kit::browser::{Browser, Page, count, wait_until};
use tests_kit::stage::Stage;

const WIDTH: u64 = 960;

/// A page's camera, and its picture in layers of these names and of these parts of the size.
fn camera(layers: [(&str, u32); 3]) -> String {
    let encodings = layers.map(|(rid, part)| format!("{{ rid: '{rid}', scaleResolutionDownBy: {part} }}")).join(", ");
    format!(
        "const media = navigator.mediaDevices, capture = media?.getUserMedia.bind(media);
        if (capture) media.getUserMedia = () => capture({{
            audio: true, video: {{ width: {WIDTH}, height: 540, frameRate: 10 }} }});
        const add = RTCPeerConnection.prototype.addTransceiver;
        RTCPeerConnection.prototype.addTransceiver = function (track, options) {{
            const sendEncodings = [{encodings}];
            const video = track.kind === 'video';
            const transceiver = add.call(this, track, video ? {{ ...options, sendEncodings }} : options);
            if (video) transceiver.setCodecPreferences(
                RTCRtpSender.getCapabilities('video').codecs.filter(codec => codec.mimeType === 'video/VP8'));
            return transceiver;
        }};"
    )
}

struct Scene {
    publisher: Page,
    viewer: Page,
    _browsers: [Browser; 2],
    stage: Stage,
}

impl Scene {
    fn new(layers: [(&str, u32); 3]) -> Result<Self> {
        let stage = Stage::apart("")?;
        let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewing = Browser::launch("viewer", stage.viewers(), None)?;
        let url = format!("{}/layers/publish", stage.publishing_origin());
        let publisher = publishing.open_with(&url, &camera(layers))?;
        publisher.evaluate("document.getElementById('start').click()")?;
        let viewer = viewing.open(&format!("{}/layers", stage.viewing_origin()))?;
        Ok(Self { publisher, viewer, _browsers: [publishing, viewing], stage })
    }

    /// Waits for a width, and for the API to say that its layer goes to the viewers.
    fn has_width(&self, width: u64) -> Result<()> {
        self.viewer.wait_for_stats(&format!("the picture has {width} columns"), START, |stats| {
            count(stats.inbound("video"), "frameWidth") == width
        })?;
        let frames = count(self.viewer.stats()?.inbound("video"), "framesDecoded");
        self.viewer.wait_for_stats("frames go on", START, |stats| {
            count(stats.inbound("video"), "framesDecoded") >= frames + 10
        })?;
        wait_until("the API names the layer", START, || Ok((self.forwarded()? == [Some(width)]).then_some(())))
    }

    /// Widths of the layers that go to viewers, as the API tells them.
    fn forwarded(&self) -> Result<Vec<Option<u64>>> {
        let state = self.stage.server.get("/api/v1/state")?;
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let tracks = list(&state, "sessions").into_iter().flat_map(|session| list(&session, "tracks"));
        let layers = tracks.map(|track| track["layer"].clone()).filter(|layer| layer["forwarded"] == true);
        Ok(layers.map(|layer| layer["width"].as_u64()).collect())
    }

    /// Lets the encoder of a layer rest, or work.
    fn set_active(&self, rid: &str, active: bool) -> Result<()> {
        let script = format!(
            "(async () => {{
                const sender = window.penstock.pc.getSenders().find(sender => sender.track?.kind === 'video');
                const parameters = sender.getParameters();
                parameters.encodings.find(encoding => encoding.rid === '{rid}').active = {active};
                await sender.setParameters(parameters);
            }})()"
        );
        self.publisher.evaluate(&script).map(drop)
    }
}

fn arrives_whole(layers: [(&str, u32); 3]) -> Result<()> {
    let scene = Scene::new(layers)?;
    scene.stage.explain((|| {
        scene.has_width(WIDTH)?;
        ensure!(scene.stage.server.logged("simulcast layers"), "the log does not tell of layers");
        ensure!(scene.stage.server.logged("viewers get this layer"), "the log does not tell which one is forwarded");
        Ok(())
    })())
}

#[test]
fn the_largest_layer_named_last() -> Result<()> {
    arrives_whole([("q", 4), ("h", 2), ("f", 1)])
}

#[test]
fn the_largest_layer_named_first() -> Result<()> {
    arrives_whole([("f", 1), ("h", 2), ("q", 4)])
}

/// OBS numbers its layers.
#[test]
fn layers_whose_names_say_nothing() -> Result<()> {
    arrives_whole([("0", 4), ("1", 2), ("2", 1)])
}

/// As an encoder does when its line is narrow, and wide again.
#[test]
fn the_next_layer_follows_when_the_largest_stops() -> Result<()> {
    let scene = Scene::new([("q", 4), ("h", 2), ("f", 1)])?;
    scene.stage.explain((|| {
        scene.has_width(WIDTH)?;
        scene.set_active("f", false)?;
        scene.has_width(WIDTH / 2)?;
        scene.set_active("f", true)?;
        scene.has_width(WIDTH)
    })())
}
