//! Encoders that send plain RTP.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::ffmpeg::{Ffmpeg, Send};
use tests_kit::peer::Kind;
use tests_kit::stage::{BOTH, Layout, Stage, clip};

/// The clip, sent to `address` from port `first` on.
fn sdp(address: &str, first: u16) -> String {
    format!(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=encoder\nc=IN IP4 {address}\nt=0 0\nm=video {first} RTP/AVP 96\n\
         a=rtpmap:96 VP8/90000\nm=audio {} RTP/AVP 97\na=rtpmap:97 opus/48000/2\n",
        first + 2
    )
}

fn stage(sdp: &str, more: &str) -> Result<Stage> {
    let toml = format!("[limits]\nsource_max_kbps = 20000\n[streams.e2e]\nsdp = \"\"\"\n{sdp}\"\"\"\n{more}\n");
    Stage::new(Layout::OneNic, "native", &toml)
}

fn send(stage: &Stage, address: &str, first: u16) -> Result<[Ffmpeg; 2]> {
    let one = |send, port: u16, payload_type: &str| {
        let url = format!("rtp://{address}:{port}?pkt_size=1200&localaddr=10.60.0.2");
        Ffmpeg::clip(&stage.near, send, &["-payload_type", payload_type, "-f", "rtp", &url])
    };
    Ok([one(Send::Video, first, "96")?, one(Send::Audio, first + 2, "97")?])
}

fn source(stage: &Stage) -> Result<Value> {
    stage.source_of("e2e")
}

fn shows_the_clip(stage: &Stage, encoders: &[Ffmpeg]) -> Result<()> {
    let playing = stage.until("media comes", || Ok(source(stage)?["state"] == "playing"));
    playing.map_err(|error| error.context(encoders.iter().map(Ffmpeg::said).collect::<String>()))?;
    let before = source(stage)?;
    let viewers = stage.play(2, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 40)?;
    stage.flows(&viewers, &[0, 1], Kind::Audio, 100)?;
    let after = source(stage)?;
    ensure!(after["lost"] == before["lost"] && after["dropped"] == before["dropped"], "{before}, then {after}");
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn unicast_from_one_sender() -> Result<()> {
    let stage = stage(&sdp("10.60.0.1", 5004), "sender = \"10.60.0.2\"")?;
    let encoders = send(&stage, "10.60.0.1", 5004)?;
    shows_the_clip(&stage, &encoders)?;
    // Somebody else is not heard, and that is said.
    let before = source(&stage)?["dropped"].clone();
    ensure!(before["wrong_sender"].is_null(), "{before}");
    stage.near.run(|| -> Result<()> {
        let stranger = UdpSocket::bind("10.60.0.3:0")?;
        for _ in 0..50 {
            stranger.send_to(&[0x80, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9], "10.60.0.1:5004")?;
        }
        Ok(())
    })?;
    stage.until("strangers are counted", || Ok(source(&stage)?["dropped"]["wrong_sender"] == 50))?;
    shows_the_clip(&stage, &encoders)?;
    let mut after = source(&stage)?["dropped"].clone();
    let strangers = after.as_object_mut().and_then(|after| after.remove("wrong_sender"));
    ensure!(strangers == Some(50.into()) && after == before, "{}", source(&stage)?);
    Ok(())
}

#[test]
fn multicast_by_interface() -> Result<()> {
    let stage = stage(&sdp("239.7.7.7/4", 5010), "interface = \"eth0\"")?;
    let encoders = send(&stage, "239.7.7.7", 5010)?;
    shows_the_clip(&stage, &encoders)
}

/// The description comes from a file, which is read again until it is there.
#[test]
fn a_file_that_comes_later() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("encoder.sdp");
    let toml = format!("[streams.e2e]\nsdp_file = \"{}\"\n", file.display());
    let stage = Stage::new(Layout::OneNic, "native", &toml)?;
    stage.until("the missing file is named", || Ok(source(&stage)?["error"] == "sdp_file"))?;
    std::fs::write(&file, sdp("10.60.0.1", 5004))?;
    let encoders = send(&stage, "10.60.0.1", 5004)?;
    shows_the_clip(&stage, &encoders)
}

#[test]
fn wrong_and_too_much_is_named() -> Result<()> {
    let stage = stage(&sdp("10.60.0.1", 5004), "[streams.deaf]\nsdp_file = \"/dev/null\"\n")?;
    let flood = |payload_type: u8, count: u32| {
        stage.near.run(|| -> Result<()> {
            let socket = UdpSocket::bind("10.60.0.2:0")?;
            let mut packet = vec![0; 1200];
            packet[..2].copy_from_slice(&[0x80, payload_type]);
            packet[12] = 0x10;
            for number in 0..count {
                packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                packet[4..8].copy_from_slice(&(number * 90).to_be_bytes());
                socket.send_to(&packet, "10.60.0.1:5004")?;
            }
            Ok(())
        })
    };
    flood(33, 50)?;
    stage
        .until("the payload type is counted", || Ok(source(&stage)?["dropped"]["payload_type"].as_u64() >= Some(50)))?;
    stage.until("silence is named", || Ok(source(&stage)?["error"] == "stalled"))?;
    ensure!(source(&stage)?["error_text"].to_string().contains("payload_type"));
    let before = stage.server.memory()?;
    flood(96, 200_000)?;
    let dropped = source(&stage)?["dropped"]["too_fast"].as_u64().unwrap_or(0);
    ensure!(dropped > 1000, "{}", source(&stage)?);
    // It is looked at once a second.
    stage.until("it is said", || Ok(source(&stage)?["warnings"].to_string().contains("source_max_kbps")))?;
    let grown = stage.server.memory()?.saturating_sub(before);
    ensure!(grown < 8 << 20, "memory grew by {grown} bytes");
    let packets = || -> Result<u64> { Ok(source(&stage)?["packets"].as_u64().unwrap_or(0)) };
    let before = packets()?;
    let encoders = send(&stage, "10.60.0.1", 5004)?;
    // What waited for the flood's missing packets leaves when the next sender begins.
    stage.until("the encoder is heard", || Ok(packets()? > before + 50))?;
    shows_the_clip(&stage, &encoders)
}
