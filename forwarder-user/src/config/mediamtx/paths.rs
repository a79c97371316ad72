//! Paths there are streams here; only those with a source or a limit need a table.

use super::{Imported, Line, value::Value};
use crate::config::{Config, stream_name_problem};

/// Keys of a path that a camera's stream takes over.
const TAKEN: [&str; 6] =
    ["source", "maxReaders", "sourceFingerprint", "sourceOnDemand", "rtspTransport", "sourceProtocol"];

/// Keys with a value that asks for what we do not have: key, the value by default, and the reason.
const ABSENT: [(&str, &str, &str); 22] = [
    ("record", "no", "nothing is recorded"),
    ("fallback", "", "viewers wait until the camera is back"),
    ("alwaysAvailable", "no", "viewers wait until the camera is back"),
    ("sourceRedirect", "", "streams are not redirected"),
    ("sourceOnDemandStartTimeout", "10s", "viewers wait until the camera answers or fails"),
    ("sourceOnDemandCloseAfter", "10s", "it is 10 s"),
    ("rtspRangeType", "", "cameras play from now on"),
    ("rtspAnyPort", "no", "RTP must come from the ports that the camera names: use TCP"),
    ("sourceAnyPortEnable", "no", "RTP must come from the ports that the camera names: use TCP"),
    ("rtspScale", "", "cameras play at their own speed"),
    ("rtspDemuxMpegts", "no", "MPEG-TS is not taken apart"),
    ("forward", "", "streams are not sent on: ffmpeg or MediaMTX can fetch them"),
    ("disablePublisherOverride", "no", "a second publisher is always refused"),
    ("whepBearerToken", "", "streams of other WHEP servers are not fetched"),
    ("playback", "yes", "nothing is recorded, so there is nothing to play back"),
    ("overridePublisher", "yes", "a second publisher is refused while the first is there"),
    ("publishUser", "", "name a user in auth.users who may publish it: as it is, everybody may"),
    ("readUser", "", "name a user in auth.users who may play it: as it is, everybody may"),
    ("publishIPs", "", "give auth.users addresses: as it is, everybody may publish it"),
    ("readIPs", "", "give auth.users addresses: as it is, everybody may play it"),
    ("useAbsoluteTimestamp", "no", "the camera's clock goes to viewers in RTCP"),
    ("rtpSDP", "", "plain RTP is not imported"),
];

/// Beginnings of keys that say how one of those or of the absent sources is done.
const DETAILS: [&str; 13] = [
    "record",
    "moqTransport",
    "mpegts",
    "rpiCamera",
    "whep",
    "srt",
    "alwaysAvailable",
    "rtspRange",
    "rtspUDP",
    "rtpUDP",
    "runOn",
    "publishPass",
    "readPass",
];

pub(super) fn take(root: &Value, out: &mut Imported) {
    let nothing = Value::Map(vec![]);
    let defaults = root.get("pathDefaults").unwrap_or(&nothing);
    absent("pathDefaults", defaults, out);
    let Some(paths) = root.get("paths") else { return };
    let mut open = false;
    for (name, path) in paths.entries() {
        open |= ["all", "all_others", "~^.*$"].contains(&name.as_str());
        let key = format!("paths.{name}");
        absent(&key, path, out);
        let find = |key: &str| path.get(key).or_else(|| defaults.get(key));
        match find("source").and_then(Value::text) {
            None | Some("publisher") => published(name, readers(&find), out),
            Some(source) => camera(name, source, &find, out),
        }
    }
    out.note("overridePublisher: a second publisher of a stream is refused while the first is there");
    if !open {
        out.note(
            "paths: publishers may choose any stream name that no camera has, where MediaMTX knows those in \
             `paths` only; auth.users decides who may",
        );
    }
}

/// Most readers at a time, if there is a limit.
fn readers<'a>(find: &dyn Fn(&str) -> Option<&'a Value>) -> Option<i64> {
    find("maxReaders").and_then(Value::text).and_then(|text| text.parse().ok()).filter(|most| *most > 0)
}

/// A path that somebody publishes. Names that a pattern restricts cannot be restricted here.
fn published(name: &str, most: Option<i64>, out: &mut Imported) {
    let key = format!("paths.{name}");
    if let Some(most) = most {
        let lines = vec![line(format!("From {key}.maxReaders."), "max_viewers", most)];
        let stream = (name.trim_matches('/').to_owned(), lines);
        match problem(&stream) {
            None => out.streams.push(stream),
            Some(_) => out.leave_out(&format!("{key}.maxReaders"), "a limit is for one name"),
        }
    }
    if name.starts_with('~') && name != "~^.*$" {
        out.note(format!("{key}: publishers may choose any stream name"));
    }
}

fn absent(key: &str, path: &Value, out: &mut Imported) {
    for (name, value) in path.entries() {
        if value.is_off() || TAKEN.contains(&name.as_str()) {
            continue;
        }
        let is_default = |default: &str| match default {
            "yes" | "no" => value.flag() == Some(default == "yes"),
            default => value.text() == Some(default),
        };
        let known = ABSENT.iter().find(|(absent, ..)| absent == name);
        match known {
            Some((_, default, _)) if is_default(default) => {}
            Some((.., why)) => out.leave_out(&format!("{key}.{name}"), why),
            None if name.starts_with("runOn") && !name.ends_with("Restart") && value.text().is_some() => {
                if !name.ends_with("Timeout") && !name.ends_with("CloseAfter") {
                    out.leave_out(&format!("{key}.{name}"), "set hooks.run_on_stream_ready and its sisters: one program for all streams, with PENSTOCK_STREAM");
                }
            }
            None if DETAILS.iter().any(|begin| name.starts_with(begin)) => {}
            None => out.leave_out(&format!("{key}.{name}"), "unknown key"),
        }
    }
}

fn camera<'a>(path: &str, source: &str, find: &dyn Fn(&str) -> Option<&'a Value>, out: &mut Imported) {
    let key = format!("paths.{path}");
    let scheme = source.split_once("://").map_or(source, |(scheme, _)| scheme);
    if !["rtsp", "rtsps"].contains(&scheme) {
        // Not the whole source: it may have a password.
        return out.leave_out(&key, format!("sources of the kind {scheme:?} are not taken, only rtsp and rtsps"));
    }
    if path.starts_with('~') || source.contains("$MTX_") || source.contains("$G") {
        return out.leave_out(&key, "patterns are not taken: name each stream and its source");
    }
    let name = path.trim_matches('/').to_owned();
    if let Some(problem) = stream_name_problem(&name) {
        return out.leave_out(&key, problem);
    }
    if out.streams.iter().any(|(other, _)| *other == name) {
        return out.leave_out(&key, format!("another stream is called {name:?} already"));
    }
    let mut lines = vec![line(format!("From {key}."), "source", source)];
    match find("rtspTransport").or_else(|| find("sourceProtocol")).and_then(Value::text) {
        None | Some("automatic") => {}
        Some(transport @ ("tcp" | "udp")) => lines.push(line("From rtspTransport.", "transport", transport)),
        Some(other) => out.leave_out(&format!("{key}.rtspTransport"), format!("{other:?}: \"auto\" is used")),
    }
    if find("sourceOnDemand").and_then(Value::flag) == Some(true) {
        lines.push(line("From sourceOnDemand.", "on_demand", true));
    }
    if let Some(hash) = find("sourceFingerprint").and_then(Value::text).filter(|_| scheme == "rtsps") {
        lines.push(line("From sourceFingerprint.", "fingerprint", hash));
    }
    if let Some(most) = readers(find) {
        lines.push(line("From maxReaders.", "max_viewers", most));
    }
    let stream = (name.clone(), lines);
    if let Some(problem) = problem(&stream) {
        return out.leave_out(&key, problem);
    }
    out.streams.push(stream);
}

fn line(comment: impl Into<String>, key: &'static str, value: impl Into<toml::Value>) -> Line {
    Line { comment: comment.into(), key, value: value.into() }
}

/// Why a stream alone is no configuration. The message has no password: a source's never do.
fn problem(stream: &(String, Vec<Line>)) -> Option<String> {
    let values = stream.1.iter().map(|line| (line.key.to_owned(), line.value.clone()));
    let table = toml::Table::from_iter([(stream.0.clone(), toml::Value::Table(values.collect()))]);
    let table = toml::Table::from_iter([("streams".to_owned(), toml::Value::Table(table))]);
    match table.try_into::<Config>() {
        Ok(config) => config.check("it").err().map(|error| error.to_string()),
        Err(error) => Some(error.message().to_owned()),
    }
}
