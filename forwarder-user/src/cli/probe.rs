//! `penstock probe`.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use serde_json::json;

use super::{FAILED, OK, output};
use crate::{
    config,
    ingest::probe::{Report, Track, probe},
};

const EXAMPLES: &str = "\
Examples:
  penstock probe rtsp://me:secret@192.0.2.7/stream1
  penstock probe rtsps://192.0.2.7/stream1 --fingerprint 5d2c… --json
  penstock probe rtsp://192.0.2.7/stream1 --transport udp --seconds 30

Connects to the camera as a server would, and needs neither a server nor any right. Keyframes that are
further apart than --seconds are not seen.
Exit code 0: browsers will show it; 1: they will not, or nothing came.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// The camera, as `source` of a stream names it
    #[arg(value_name = "URL")]
    url: String,

    /// One JSON object
    #[arg(long)]
    json: bool,

    /// How long it is listened to
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// `auto`, `tcp` or `udp`, as in the configuration
    #[arg(long, default_value = "auto", value_name = "TRANSPORT")]
    transport: String,

    /// SHA-256 of its certificate, in hexadecimal
    #[arg(long, default_value = "", value_name = "SHA256")]
    fingerprint: String,
}

/// Looks at a camera.
///
/// # Errors
/// The URL or another option is wrong.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let Options { url, transport, fingerprint, .. } = options;
    let source: config::Stream =
        serde_json::from_value(json!({ "source": url, "transport": transport, "fingerprint": fingerprint }))?;
    if let Some(problem) = source.problem() {
        bail!("{problem}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(probe(&source, Duration::from_secs(options.seconds)));
    if options.json {
        output::print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        output::print_line(text(&report))?;
    }
    Ok(if report.ok { OK } else { FAILED })
}

fn text(report: &Report) -> String {
    let mut lines = vec![report.source.clone()];
    if let Some(after) = report.described_after_ms {
        let first = report.first_packet_after_ms.map_or("none came".into(), |after| format!("after {after} ms"));
        lines.push(format!("described after {after} ms; first packet: {first}"));
    }
    if !report.tracks.is_empty() {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([
            "",
            "codec",
            "size",
            "frames/s",
            "keyframes",
            "kbit/s",
            "lost",
            "browsers",
        ]);
        for track in &report.tracks {
            table.add_row(row(track, report.seconds.max(0.001)));
        }
        lines.push(table.to_string());
    }
    for track in &report.tracks {
        let dropped: Vec<String> = track.dropped.iter().map(|(why, count)| format!("{why} {count}")).collect();
        if !dropped.is_empty() {
            lines.push(format!("dropped of {}: {}", track.kind, dropped.join(", ")));
        }
    }
    lines.extend(report.left_out.iter().map(|what| format!("left out: {what}")));
    lines.extend(report.odd.iter().map(|what| format!("odd: {what}")));
    lines.extend(report.reasons.iter().map(|(name, text)| format!("{name}: {text}")));
    if let Some(error) = &report.error {
        lines.push(format!("{}: {}", error.name, error.text));
        lines.push(format!("what to change: {}", error.advice));
    }
    lines.push(if report.ok { "browsers will show it".into() } else { "browsers will not show it as it is".into() });
    lines.join("\n")
}

fn row(track: &Track, seconds: f64) -> [String; 8] {
    let size = track.size.map_or("-".into(), |(width, height)| format!("{width}x{height}"));
    let (rate, keyframes) = match track.kind {
        "video" => (format!("{:.1}", track.frames as f64 / seconds), track.keyframes.to_string()),
        _ => ("-".into(), "-".into()),
    };
    [
        track.kind.into(),
        track.codec.clone(),
        size,
        rate,
        keyframes,
        format!("{:.0}", track.bytes as f64 * 8.0 / 1000.0 / seconds),
        track.lost.to_string(),
        track.browsers.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks for a camera that is not there is told so, in words and by name.
    #[test]
    fn a_camera_that_is_not_there() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("rtsp://me:s3cret@{}/x", listener.local_addr().unwrap());
        drop(listener);
        let source: config::Stream = serde_json::from_value(json!({ "source": url })).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(probe(&source, Duration::from_secs(1)));
        assert_eq!(report.error.as_ref().map(|error| error.name), Some("unreachable"));
        let text = text(&report);
        assert!(
            text.contains("unreachable: ") && text.contains("what to change: ") && !text.contains("s3cret"),
            "{text}"
        );
        assert!(!report.ok);
    }
}
