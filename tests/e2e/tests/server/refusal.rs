//! Peers that the kernel engine cannot serve, where it is the only one.

use anyhow::Result;
use tests_kit::peer::{Kind, Offer, Options, Publisher, SrtpProfile, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

#[test]
fn peers_without_gcm_are_refused_after_dtls_and_counted() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[media]\nengine = \"kernel\"\n")?;
    let source = synthetic(50);
    let old = |options: Options| Options { profiles: Offer::CmSha1, ..options };
    let publisher = Publisher::start(&stage.whip(), source.clone(), old(stage.publishing()))?;
    stage.until("the publisher is closed", || Ok(publisher.stats().closed.is_some()))?;
    assert_eq!(publisher.stats().profile, Some(SrtpProfile::AES128_CM_SHA1_80));
    assert!(stage.server.logged("AES_CM_128_HMAC_SHA1_80"), "no log line names the profile");

    // The stream is free again, and serves others.
    let publisher = stage.publish(&source, stage.publishing())?;
    let refused = Viewers::start(&stage.whep(), 1, source.clone(), old(stage.playing()))?;
    stage.until("the viewer is closed", || Ok(refused.stats()[0].closed.is_some()))?;
    assert_eq!(refused.stats()[0].video.packets, 0);
    let viewers = stage.play(1, &source, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 50)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;

    let state = stage.server.get("/api/v1/state")?;
    let counted = find(&state, "refused_srtp_profile");
    assert_eq!(counted, Some(2), "{state:#}");
    Ok(())
}

/// First value of this key anywhere in a document.
fn find(value: &serde_json::Value, key: &str) -> Option<u64> {
    match value {
        serde_json::Value::Object(map) => {
            map.get(key).and_then(serde_json::Value::as_u64).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        serde_json::Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}
