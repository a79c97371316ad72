//! Keys of the server itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Imported, value::Value};

/// Servers and functions that we do not have: the key that switches one on, the beginning of its other
/// keys, and what to say. Those that are on unless switched off count only where the file says so.
const ABSENT: [(&str, &str, &str); 5] = [
    ("hls", "hls", "there is no HLS: viewers play by WebRTC"),
    ("rtmp", "rtmp", "there is no RTMP: publish by WHIP or RTSP"),
    ("srt", "srt", "there is no SRT: publish by WHIP or RTSP"),
    ("moq", "moq", "there is no Media over QUIC: publish by WHIP or RTSP, play by WHEP"),
    ("playback", "playback", "nothing is recorded, so there is nothing to play back"),
];

/// Of these, those that MediaMTX serves unless they are switched off.
const ON_BY_DEFAULT: [&str; 4] = ["hls", "rtmp", "srt", "moq"];

/// Keys without effect on what viewers see, or of a mechanism that needs no setting here.
const NEEDLESS: [&str; 23] = [
    "logDestinations",
    "logFile",
    "sysLogPrefix",
    "readTimeout",
    "writeTimeout",
    "writeQueueSize",
    "readBufferCount",
    "udpMaxPayloadSize",
    "apiAddress",
    "apiAllowOrigins",
    "metricsAddress",
    "metricsAllowOrigins",
    "pprofAddress",
    "pprofAllowOrigins",
    "webrtcHandshakeTimeout",
    "webrtcTrackGatherTimeout",
    "webrtcSTUNGatherTimeout",
    "webrtcServerKey",
    "webrtcServerCert",
    "webrtcIPsFromInterfaces",
    "apiAllowOrigin",
    "metricsAllowOrigin",
    "pprofAllowOrigin",
];

/// Keys that other files of this folder read.
const ELSEWHERE: [&str; 4] = ["authMethod", "authInternalUsers", "paths", "pathDefaults"];

pub(super) fn take(root: &Value, out: &mut Imported) {
    for (key, value) in root.entries() {
        let key = key.as_str();
        if ![&ELSEWHERE[..], &NEEDLESS, &super::rtsp::KEYS].iter().any(|keys| keys.contains(&key)) {
            one(root, key, value, out);
        }
    }
    defaults(root, out);
    if root.get("udpReadBufferSize").is_none_or(|size| size.text() == Some("0")) {
        out.note("media.socket_buffer_kb is 4096, where MediaMTX has what the system gives by itself");
    }
}

fn one(root: &Value, key: &str, value: &Value, out: &mut Imported) {
    match key {
        "logLevel" => match value.text() {
            Some(level @ ("error" | "warn" | "info" | "debug")) => out.set("log", "level", level, key),
            _ => out.leave_out(key, "its levels are error, warn, info and debug"),
        },
        "logStructured" if value.flag() == Some(true) => out.set("log", "format", "json", key),
        "udpReadBufferSize" => buffer(key, value, out),
        "webrtc" if value.is_off() => out.leave_out(key, "WebRTC cannot be switched off: it is all there is"),
        "webrtc" => {}
        "webrtcDisable" if value.flag() == Some(true) => {
            out.leave_out(key, "WebRTC cannot be switched off: it is all there is");
        }
        // Below, since they count when they are absent as well.
        "webrtcAddress" | "webrtcLocalUDPAddress" | "webrtcICEUDPMuxAddress" => {}
        "webrtcLocalTCPAddress" | "webrtcICETCPMuxAddress" if !value.is_off() => {
            out.leave_out(key, "media goes by UDP only")
        }
        // Below, with the address.
        "webrtcEncryption" => {}
        "webrtcAllowOrigin" | "webrtcAllowOrigins" => {}
        "dumpPackets" if !value.is_off() => out.leave_out(key, "packets are not dumped: use tcpdump"),
        "rtspDisable" | "rtmpDisable" | "hlsDisable" | "webrtcDisable" => {}
        "webrtcTrustedProxies" if !value.is_off() => proxies(key, value, out),
        "webrtcIPsFromInterfacesList" if !value.is_off() => {
            let names: Vec<toml::Value> = value.texts().into_iter().map(toml::Value::from).collect();
            out.set("kernel", "interfaces", names, key);
        }
        "webrtcAdditionalHosts" | "webrtcICEHostNAT1To1IPs" if !value.is_off() => {
            let why = format!(
                "set media.public_addresses = {{ \"LOCAL ADDRESS\" = \"PUBLIC ADDRESS\" }} for {}",
                value.texts().join(", ")
            );
            out.leave_out(key, why);
        }
        "webrtcICEServers" | "webrtcICEServers2" if !value.is_off() => {
            out.leave_out(key, "the server needs no STUN or TURN: it answers on its own addresses");
        }
        "api" if value.flag() == Some(true) => {
            out.leave_out(key, "it has another shape and is read-only: GET /api/v1/state on http.listen");
        }
        "metrics" if value.flag() == Some(true) => {
            out.note("metrics: /metrics on http.listen, with names of its own (docs/metrics.md)");
        }
        "pprof" if value.flag() == Some(true) => out.set("debug", "profiles", true, key),
        _ => other(root, key, value, out),
    }
}

/// Keys that nobody above has taken.
fn other(root: &Value, key: &str, value: &Value, out: &mut Imported) {
    if value.is_off() {
        return;
    }
    if let Some((switch, _, why)) = ABSENT.iter().find(|(_, begin, _)| key.starts_with(begin)) {
        // One line for each server, not one for each of its keys.
        let address = key.ends_with("Address") && key.starts_with(switch);
        if key == *switch || (address && root.get(switch).is_none()) {
            out.leave_out(key, why);
        }
        return;
    }
    match key {
        "runOnConnect" | "runOnDisconnect" => {
            out.leave_out(
                key,
                "set hooks.run_on_session_opened and hooks.run_on_session_closed, which know the stream",
            );
        }
        "externalAuthenticationURL" => out.leave_out(key, "set auth_http.url, which is asked in newer words"),
        _ if key.starts_with("runOn") || key.starts_with("auth") => {}
        _ if key.ends_with("Encryption") || key.ends_with("TrustedProxies") => {
            out.leave_out(key, "all of it is on http.listen and http.listen_tls");
        }
        _ if key.ends_with("ServerKey") || key.ends_with("ServerCert") => {}
        _ => out.leave_out(key, "unknown key"),
    }
}

/// What it means that a key is absent: MediaMTX's own default.
fn defaults(root: &Value, out: &mut Imported) {
    if root.get("webrtcEncryption").and_then(Value::flag) == Some(true) {
        encrypted(root, out);
    } else {
        listen(root, "webrtcAddress", ":8889", ("http", "listen"), out);
    }
    let media = ["webrtcLocalUDPAddress", "webrtcICEUDPMuxAddress"];
    let given = media.into_iter().find_map(|key| Some((key, root.get(key)?)));
    let absent = Value::Text { text: ":8189".into(), quoted: true };
    let (key, value) = given.unwrap_or(("MediaMTX's default of webrtcLocalUDPAddress", &absent));
    media_address(key, value, out);
    let origins = ["webrtcAllowOrigins", "webrtcAllowOrigin"].into_iter().find_map(|key| Some((key, root.get(key)?)));
    let absent = Value::Text { text: "*".into(), quoted: true };
    let (key, value) = origins.unwrap_or(("MediaMTX's default of webrtcAllowOrigins", &absent));
    self::origins(key, value, out);
    let silent = ON_BY_DEFAULT.into_iter().filter(|key| root.get(key).is_none());
    let silent: Vec<&str> = silent.filter(|key| root.get(&format!("{key}Disable")).is_none()).collect();
    if !silent.is_empty() {
        out.note(format!(
            "{}: MediaMTX serves these as well unless they are switched off; here they are not",
            silent.join(", ")
        ));
    }
}

/// HTTPS, and plain HTTP for this host alone.
fn encrypted(root: &Value, out: &mut Imported) {
    listen(root, "webrtcAddress", ":8889", ("http", "listen_tls"), out);
    out.set("http", "listen", vec![toml::Value::from("127.0.0.1:8080")], "webrtcEncryption");
    for (ours, key, default) in
        [("certificate", "webrtcServerCert", "server.crt"), ("key", "webrtcServerKey", "server.key")]
    {
        let file = root.get(key).and_then(Value::text).unwrap_or(default);
        if std::path::Path::new(file).is_relative() {
            out.note(format!("http.{ours} is relative to the folder in which penstock is started, as {key} is there"));
        }
        out.set("http", ours, file, key);
    }
    out.note("webrtcEncryption: http.listen is for this host alone, http.listen_tls for everybody");
}

fn proxies(key: &str, value: &Value, out: &mut Imported) {
    let (good, bad): (Vec<&str>, Vec<&str>) =
        value.texts().into_iter().partition(|text| text.parse::<crate::config::Network>().is_ok());
    for text in bad {
        out.leave_out(key, format!("{text:?} is neither an address nor a network"));
    }
    out.set("http", "trusted_proxies", good.into_iter().map(toml::Value::from).collect::<Vec<_>>(), key);
}

/// An address to listen on, or the one that MediaMTX has.
pub(super) fn listen(root: &Value, key: &str, default: &str, ours: (&'static str, &'static str), out: &mut Imported) {
    let (given, from) = match root.get(key).and_then(Value::text) {
        Some(given) => (given, key.to_owned()),
        None => (default, format!("MediaMTX's default of {key}")),
    };
    let Some((host, port)) = address(given) else { return out.leave_out(key, "not an address and a port") };
    let hosts = host.map_or(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], |host| vec![host]);
    let listen = hosts.into_iter().map(|host: IpAddr| SocketAddr::new(host, port).to_string().into());
    out.set(ours.0, ours.1, listen.collect::<Vec<toml::Value>>(), &from);
}

fn buffer(key: &str, value: &Value, out: &mut Imported) {
    match value.text().map(str::parse::<u64>) {
        None | Some(Ok(0)) => {}
        // The least and the most that the key takes.
        Some(Ok(bytes)) => {
            let kb = (bytes.div_ceil(1024)).clamp(64, 1 << 20);
            out.set("media", "socket_buffer_kb", kb as i64, key);
        }
        Some(Err(_)) => out.leave_out(key, "not a number of bytes"),
    }
}

fn media_address(key: &str, value: &Value, out: &mut Imported) {
    if value.is_off() {
        out.leave_out(key, "media goes by UDP, which cannot be switched off");
        return out.set("media", "port", 8189, "MediaMTX's default of webrtcLocalUDPAddress");
    }
    match value.text().and_then(address) {
        Some((_, 0)) | None => out.leave_out(key, "not an address and a port"),
        Some((host, port)) => {
            out.set("media", "port", i64::from(port), key);
            if let Some(host) = host.filter(|host| !host.is_unspecified()) {
                out.set("media", "addresses", vec![toml::Value::from(host.to_string())], key);
            }
        }
    }
}

/// `:8889`, `0.0.0.0:8889`, `[::1]:8889`.
fn address(text: &str) -> Option<(Option<IpAddr>, u16)> {
    match text.strip_prefix(':') {
        Some(port) => Some((None, port.parse().ok()?)),
        None => text.parse::<SocketAddr>().ok().map(|address| (Some(address.ip()), address.port())),
    }
}

fn origins(key: &str, value: &Value, out: &mut Imported) {
    let (good, bad): (Vec<_>, Vec<_>) = value
        .texts()
        .into_iter()
        .partition(|origin| *origin == "*" || (origin.contains("://") && !origin.contains('*')));
    for origin in bad {
        out.leave_out(key, format!("{origin:?}: an origin has no wildcards here, e.g. \"https://a.example\""));
    }
    let good: Vec<toml::Value> = good.into_iter().map(toml::Value::from).collect();
    out.set("http", "allowed_origins", good, key);
}
