//! Cameras by RTSPS whose media is SRTP, with keys by MIKEY: GStreamer's RTSP server, which describes nothing else there.

use anyhow::{Result, ensure};
use tests_kit::camera::GstCamera;
use tests_kit::camera::tls::Identity;
use tests_kit::peer::{Codec, Options, Source, Stats};
use tests_kit::stage::{Layout, Stage};

#[test]
fn a_camera_of_gstreamer_s_by_mikey() -> Result<()> {
    let files = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    let identity = Identity::new()?;
    identity.write(&certificate, &key)?;
    let fingerprint = identity.fingerprint()?;
    let stream = |name: &str, transport: &str| {
        format!(
            "[streams.{name}]\nsource = \"rtsps://me:s3cret@10.60.0.2:8556/alaw\"\ntransport = \"{transport}\"\n\
             fingerprint = \"{fingerprint}\"\n"
        )
    };
    let config = stream("by-tcp", "tcp") + &stream("by-udp", "udp");
    let stage = Stage::new(Layout::OneNic, "native", &config)?;
    let _camera = GstCamera::start_secure(&stage.near, 8556, &certificate, &key)?;
    for name in ["by-tcp", "by-udp"] {
        stage.until(name, || Ok(stage.source_of(name)?["packets"].as_u64() > Some(200)))?;
        let source = stage.source_of(name)?;
        ensure!(source["state"] == "playing" && source["dropped"]["srtp_auth_failed"].is_null(), "{source:#}");
        ensure!(source["codecs"].to_string().contains("H264"), "{source:#}");
    }
    // And what is inside reaches a viewer.
    let viewer = Options { video: vec![Codec::H264], ..stage.playing() };
    let url = stage.whep().replace("/e2e/", "/by-tcp/");
    let viewers = tests_kit::peer::Viewers::start(&url, 1, Source::None, viewer)?;
    let flows = |stats: &Stats| stats.video.packets > 40;
    stage.until("a viewer gets the picture", || Ok(flows(&viewers.stats()[0])))?;
    viewers.stop()?;
    Ok(())
}
