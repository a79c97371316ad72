//! The RTSP server, which is on unless it is switched off.

use std::path::PathBuf;

use super::{Imported, global::listen, value::Value};

/// Keys of it, those with other names that are still read included.
pub(super) const KEYS: [&str; 26] = [
    "rtsp",
    "rtspDisable",
    "rtspTransports",
    "protocols",
    "rtspEncryption",
    "encryption",
    "rtspAddress",
    "rtspsAddress",
    "rtpAddress",
    "rtcpAddress",
    "srtpAddress",
    "srtcpAddress",
    "multicastIPRange",
    "multicastRTPPort",
    "multicastRTCPPort",
    "multicastSRTPPort",
    "multicastSRTCPPort",
    "rtspServerKey",
    "rtspServerCert",
    "serverKey",
    "serverCert",
    "rtspAuthMethods",
    "authMethods",
    "rtspTrustedProxies",
    "rtspUDPReadBufferSize",
    "rtspAnyPort",
];

pub(super) fn take(root: &Value, out: &mut Imported) {
    let first = |keys: [&'static str; 2]| keys.into_iter().find_map(|key| Some((key, root.get(key)?.text()?)));
    let off = root.get("rtsp").and_then(Value::flag) == Some(false)
        || root.get("rtspDisable").and_then(Value::flag) == Some(true);
    if off {
        return;
    }
    let encryption = first(["rtspEncryption", "encryption"]).map_or("no", |(_, value)| value);
    let (plain, encrypted) = match encryption {
        "strict" | "yes" | "true" => (false, true),
        "optional" => (true, true),
        _ => (true, false),
    };
    if plain {
        listen(root, "rtspAddress", ":8554", ("rtsp", "listen"), out);
    }
    if encrypted {
        listen(root, "rtspsAddress", ":8322", ("rtsp", "listen_tls"), out);
        for (ours, keys, default) in [
            ("certificate", ["rtspServerCert", "serverCert"], "server.crt"),
            ("key", ["rtspServerKey", "serverKey"], "server.key"),
        ] {
            let (key, file) = first(keys).unwrap_or((keys[0], default));
            if PathBuf::from(file).is_relative() {
                out.note(format!(
                    "rtsp.{ours} is relative to the folder in which penstock is started, as {key} is there"
                ));
            }
            out.set("rtsp", ours, file, key);
        }
        out.note("rtspEncryption: RTSPS takes RTP within the connection, not by UDP");
    }
    let transports = first(["rtspTransports", "protocols"]).is_some() || root.get("rtspTransports").is_some();
    if transports {
        let value = root.get("rtspTransports").or_else(|| root.get("protocols"));
        let named = value.map(Value::texts).unwrap_or_default();
        if !["udp", "tcp"].iter().all(|transport| named.contains(transport)) {
            out.note("rtspTransports: publishers may choose TCP or UDP");
        }
    }
    if root
        .get("rtpAddress")
        .or_else(|| root.get("rtcpAddress"))
        .is_some_and(|address| !matches!(address.text(), None | Some(":8000" | ":8001")))
    {
        out.note(
            "rtpAddress, rtcpAddress: RTP by UDP comes to ports that the system chooses, named in the answer to SETUP",
        );
    }
    if root.get("rtspTrustedProxies").is_some_and(|proxies| !proxies.is_off()) {
        out.leave_out("rtspTrustedProxies", "the PROXY protocol is not understood: connections are those of the proxy");
    }
}
