use super::*;
use crate::config::{Action, LogFormat, RtspTransport};

const FILE: &str = r#"
logLevel: warn
logDestinations: [stdout]
logStructured: yes
readTimeout: 10s
writeTimeout: 10s
writeQueueSize: 512
udpMaxPayloadSize: 1452
udpReadBufferSize: 2097152
runOnConnect:

authMethod: internal
authInternalUsers:
- user: encoder
  pass: 0123abc
  permissions:
  - action: publish
- user: wall
  pass: "to%see"
  ips: [192.0.2.0/24]
  permissions:
  - action: read
    path: door
- user: any
  ips: ['127.0.0.1', '::1']
  permissions:
  - action: api
  - action: metrics
  - action: pprof

api: yes
apiAddress: :9997
metrics: yes
metricsAddress: :9998
pprof: yes
pprofAddress: :9999
playback: no

rtsp: yes
rtspTransports: [tcp]
rtspEncryption: "no"
rtspAddress: :8554
rtpAddress: :8000
rtmp: no
rtmpAddress: :1935
hls: yes
hlsVariant: lowLatency
srt: no

webrtc: yes
webrtcAddress: :8889
webrtcEncryption: no
webrtcAllowOrigins: ['https://tv.example.org', 'https://*.example.org']
webrtcTrustedProxies: []
webrtcLocalUDPAddress: 192.0.2.1:8189
webrtcLocalTCPAddress: ''
webrtcIPsFromInterfacesList: [eth0]
webrtcAdditionalHosts: [203.0.113.7]
webrtcICEServers2: []
webrtcHandshakeTimeout: 10s
somethingNew: 3

pathDefaults:
  sourceOnDemand: yes
  rtspTransport: tcp
  maxReaders: 0
  record: no

paths:
  door:
    source: rtsp://viewer:pa%40ss@192.0.2.20:554/stream1
    sourceOnDemand: no
    sourceOnDemandCloseAfter: 10s
  hall/1:
    source: rtsps://viewer:geheim@192.0.2.21/stream?channel=1&subtype=0
    sourceFingerprint: 33949E05FFFB5FF3E8AA16F8213A6251B4D9363804BA53233C4DA9A46D6F2739
    rtspTransport: automatic
    maxReaders: 5
    record: yes
    recordPath: ./recordings
  yard:
    source: rtsp://192.0.2.22/live
    rtspTransport: multicast
    runOnReady: notify.sh
    runOnReadyRestart: yes
  radio:
    source: rtmp://u:hidden@192.0.2.23/live
  bad:
    source: rtsp://u:hidden@192.0.2.24:99999/
  "~^sub_(.+)$":
    source: rtsp://192.0.2.25/$G1
  live:
    source: publisher
    maxReaders: 9
  all_others:
"#;

fn imported() -> (Imported, Config, String) {
    let imported = import(FILE).unwrap();
    let text = imported.to_toml("mediamtx.yml");
    let config = Config::parse(&text, "imported").unwrap();
    (imported, config, text)
}

#[test]
fn server_keys_are_taken_over() {
    let (_, config, text) = imported();
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.http.listen, ["0.0.0.0:8889".parse().unwrap(), "[::]:8889".parse().unwrap()]);
    assert_eq!(config.http.allowed_origins, ["https://tv.example.org"]);
    assert_eq!(config.media.port, 8189);
    assert_eq!(config.media.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.media.socket_buffer_kb, 2048);
    assert_eq!(config.kernel.interfaces, ["eth0"]);
    assert!(config.debug.profiles);
    assert!(config.auth.publish_token.is_empty() && config.auth.play_token.is_empty());
    let users: Vec<_> = config.auth.users.iter().map(|user| (user.name.as_str(), user.addresses.len())).collect();
    assert_eq!(users, [("encoder", 0), ("wall", 1), ("any", 2)]);
    assert!(config.auth.users[0].password.matches("0123abc") && config.auth.users[1].password.matches("to%see"));
    let may =
        |user: usize, action, stream| config.auth.users[user].permissions.iter().any(|p| p.allows(action, stream));
    assert!(may(0, Action::Publish, "x") && !may(0, Action::Play, "x"));
    assert!(may(1, Action::Play, "door") && !may(1, Action::Play, "hall"));
    assert!(may(2, Action::Api, "") && may(2, Action::Metrics, "") && may(2, Action::Debug, ""));
    assert!(text.contains("# From webrtcLocalUDPAddress.\nport = 8189\n"), "{text}");
}

#[test]
fn cameras_are_taken_over_with_their_passwords() {
    let (_, config, _) = imported();
    assert_eq!(config.streams.keys().collect::<Vec<_>>(), ["door", "hall/1", "live", "yard"]);
    let door = &config.streams["door"];
    let (user, password) = door.source.credentials().unwrap();
    assert!(user == "viewer" && password.matches("pa@ss"));
    assert_eq!((door.transport, door.on_demand), (RtspTransport::Tcp, false));
    let hall = &config.streams["hall/1"];
    assert!(hall.source.credentials().unwrap().1.matches("geheim"));
    assert_eq!(hall.source.url().unwrap().query(), Some("channel=1&subtype=0"));
    assert_eq!((hall.transport, hall.on_demand), (RtspTransport::Auto, true));
    assert_eq!((hall.certificate_hash().unwrap()[0], hall.max_viewers), (0x33, 5));
    assert_eq!((config.streams["live"].max_viewers, config.sources().contains_key("live")), (9, false));
}

#[test]
fn what_is_left_out_is_named_once_and_without_passwords() {
    let (imported, ..) = imported();
    let keys: Vec<&str> = imported.left_out.iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let expected = [
        "api",
        "hls",
        "webrtcAdditionalHosts",
        "somethingNew",
        "webrtcAllowOrigins",
        "paths.hall/1.record",
        "paths.yard.runOnReady",
        "paths.yard.rtspTransport",
        "paths.radio",
        "paths.bad",
        "paths.~^sub_(.+)$",
    ];
    assert_eq!(keys, expected, "{:#?}", imported.left_out);
    let said = format!("{:?}{:?}", imported.left_out, imported.notes);
    for secret in ["hidden", "geheim", "to%see", "0123abc"] {
        assert!(!said.contains(secret), "{said}");
    }
}

/// The newest default file of MediaMTX, as a list of keys and values.
const DEFAULTS: &str = include_str!("defaults.yml");

/// What is absent means MediaMTX's default, whether it stands there or not.
#[test]
fn absent_keys_have_the_defaults_of_mediamtx() {
    let (nothing, all) = (import("").unwrap(), import(DEFAULTS).unwrap());
    let config = |imported: &Imported| {
        // Where a key comes from may differ.
        let text = imported.to_toml("m").lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        Config::parse(&text, "imported").unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let of_nothing = config(&nothing);
    assert_eq!(of_nothing, config(&all));
    let ports =
        |addresses: &[std::net::SocketAddr]| addresses.iter().map(std::net::SocketAddr::port).collect::<Vec<_>>();
    assert_eq!(ports(&of_nothing.http.listen), [8889, 8889]);
    assert_eq!((of_nothing.media.port, ports(&of_nothing.rtsp.listen)), (8189, vec![8554, 8554]));
    assert!(of_nothing.rtsp.listen_tls.is_empty());
    assert_eq!(of_nothing.http.allowed_origins, ["*"]);
    // Servers that it switches on in so many words are missing; that nobody asked for them is no reason to stop.
    let keys: Vec<&str> = all.left_out.iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(keys, ["rtmp", "hls", "srt", "moq"], "{:#?}", all.left_out);
    assert!(nothing.left_out.is_empty() && nothing.notes.iter().any(|note| note.starts_with("hls, rtmp, srt, moq")));
}

/// A file as in the report: `webrtc: yes` and somebody who publishes.
#[test]
fn a_file_for_publishers_gives_a_server_that_listens_where_it_did() {
    let imported = import("webrtc: yes\nrtsp: yes\npaths:\n  site/door:\n    source: publisher\n").unwrap();
    let config = Config::parse(&imported.to_toml("m"), "imported").unwrap();
    assert_eq!((config.http.listen[0].port(), config.rtsp.listen[0].port(), config.media.port), (8889, 8554, 8189));
    let off = import("rtsp: no\nwebrtcICEUDPMuxAddress: :9189\n").unwrap();
    let config = Config::parse(&off.to_toml("m"), "imported").unwrap();
    assert!(config.rtsp.listen.is_empty() && config.media.port == 9189);
    let tls = import("rtspEncryption: optional\nrtspsAddress: 192.0.2.1:322\nserverKey: /k.pem\n").unwrap();
    let config = Config::parse(&tls.to_toml("m"), "imported").unwrap();
    assert_eq!((config.rtsp.listen.len(), config.rtsp.listen_tls[0].port()), (2, 322));
    assert_eq!((config.rtsp.key.to_str(), config.rtsp.certificate.to_str()), (Some("/k.pem"), Some("server.crt")));
}

/// Whoever cannot be taken over leaves what he guarded closed, and not open.
#[test]
fn what_was_closed_stays_closed() {
    let config = |text: &str| {
        let imported = import(text).unwrap();
        let said = format!("{:?}{:?}", imported.left_out, imported.notes);
        assert!(!said.contains("s3cret"), "{said}");
        let left_out: Vec<String> =
            imported.left_out.iter().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect();
        (Config::parse(&imported.to_toml("m"), "imported").unwrap(), left_out)
    };
    let outside: std::net::IpAddr = "192.0.2.9".parse().unwrap();
    let open = |config: &Config, action| {
        let users = &config.auth.users;
        let named = config.jwt.is_on() || config.auth_http.decides(action);
        let holds = |user: &&crate::config::User| user.permissions.iter().any(|p| p.allows(action, "a"));
        let anybody = |user: &crate::config::User| {
            user.is_anybody() && (user.addresses.is_empty() || user.addresses.iter().any(|n| n.contains(outside)))
        };
        let of = users.iter().filter(holds).collect::<Vec<_>>();
        of.iter().any(|user| anybody(user)) || (of.is_empty() && !named)
    };
    for (text, publish, play, lost) in [
        ("", true, true, &[][..]),
        ("authInternalUsers: []", false, false, &[]),
        ("authInternalUsers:\n- user: any\n  permissions:\n  - action: read", false, true, &[]),
        (
            "authInternalUsers:\n- user: me\n  pass: sha256:s3cret\n  permissions:\n  - action: publish\n  - action: read",
            false,
            false,
            &["authInternalUsers[0]"],
        ),
        (
            "authInternalUsers:\n- user: me\n  permissions:\n  - action: publish\n- user: any\n  ips: [nonsense]\n  permissions:\n  - action: read",
            false,
            false,
            &["authInternalUsers[0]", "authInternalUsers[1].ips"],
        ),
        ("authMethod: ldap", false, false, &["authMethod"]),
        ("authMethod: http", false, false, &["authHTTPAddress"]),
        ("authMethod: jwt\nauthJWTJWKS: https://u:s3cret@h/", false, false, &["authJWTJWKS"]),
        ("authMethod: http\nauthHTTPAddress: http://127.0.0.1:9/a", false, false, &[]),
        (
            "authMethod: http\nauthHTTPAddress: http://127.0.0.1:9/a\nauthHTTPExclude:\n- action: read\n- action: api",
            false,
            true,
            &[],
        ),
        ("authMethod: jwt\nauthJWTJWKS: https://id.example/k\nauthJWTExclude:\n- action: read", false, true, &[]),
    ] {
        let (config, left_out) = config(text);
        assert_eq!((open(&config, Action::Publish), open(&config, Action::Play)), (publish, play), "{text}");
        assert_eq!(left_out, lost, "{text}");
    }
    let (config, _) = config(
        "authMethod: jwt\nauthJWTJWKS: https://id.example/k\nauthJWTClaimKey: may\nauthJWTIssuer: i\n\
         authJWTAudience: a\nauthJWTInHTTPQuery: no",
    );
    assert_eq!(
        (config.jwt.claim.as_str(), config.jwt.issuer.as_str(), config.jwt.audience.as_str()),
        ("may", "i", "a")
    );
    assert!(!config.auth.token_in_query);
}

#[test]
fn passwords_as_hashes_and_names_as_patterns() {
    let text = "authInternalUsers:\n- user: me\n  pass: argon2:$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQxMjM0$WJXxHGBOOhVuBHUdvGCvJnC6RfsLUEqhv7dlKqHFUEw\n  ips: [10.0.0.0/8]\n  permissions:\n  - action: publish\n    path: ~^cam[0-9]+$\n  - action: playback\n- user: any\n  permissions:\n  - action: read\n    path: a*b\n";
    let imported = import(text).unwrap();
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
    let config = Config::parse(&imported.to_toml("m"), "imported").unwrap();
    let users = &config.auth.users;
    assert!(users[0].password.hash().is_some());
    assert!(
        users[0].permissions[0].allows(Action::Publish, "cam7")
            && !users[0].permissions[0].allows(Action::Publish, "x")
    );
    assert!(
        users[1].permissions[0].allows(Action::Play, "a*b") && !users[1].permissions[0].allows(Action::Play, "axb")
    );
}

/// HTTPS and proxies are taken over; plain HTTP is left to this host.
#[test]
fn https_is_taken_over() {
    let imported =
        import("webrtcEncryption: yes\nwebrtcServerCert: /c.pem\nwebrtcTrustedProxies: [10.0.0.1, 10.1.0.0/16]\n")
            .unwrap();
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
    let config = Config::parse(&imported.to_toml("m"), "imported").unwrap();
    assert_eq!((config.http.listen_tls[0].port(), config.http.listen.len()), (8889, 1));
    assert!(config.http.listen[0].ip().is_loopback() && config.http.trusted_proxies.len() == 2);
    assert_eq!((config.http.certificate.to_str(), config.http.key.to_str()), (Some("/c.pem"), Some("server.key")));
}

/// YAML's own way to say things once.
#[test]
fn merged_maps_are_taken() {
    let text = "pathDefaults: &all\n  sourceOnDemand: yes\npaths:\n  a: &a\n    source: rtsp://192.0.2.1/\n    rtspTransport: tcp\n  b:\n    <<: *a\n    source: rtsp://192.0.2.2/\n";
    let imported = import(text).unwrap();
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
    let config = Config::parse(&imported.to_toml("m"), "imported").unwrap();
    assert_eq!(config.streams["b"].transport, RtspTransport::Tcp);
}

/// Every key is taken, named as not needed, or named as missing, here and in the guide.
#[test]
fn every_key_is_known_and_documented() {
    let guide = include_str!("../../../../docs/from-mediamtx.md");
    // `hls…` in the guide stands for all that begin so.
    let words = guide.split('`').skip(1).step_by(2).flat_map(|code| code.split([' ', ','])).collect::<Vec<_>>();
    let named = |key: &str| {
        words.iter().any(|word| match word.strip_suffix('…') {
            Some(begin) => !begin.is_empty() && key.starts_with(begin),
            None => word.trim_end_matches(':') == key,
        })
    };
    let root = Value::parse(DEFAULTS).unwrap();
    let of_paths = root.get("pathDefaults").unwrap();
    for (key, _) in root.entries().iter().chain(of_paths.entries()) {
        assert!(named(key), "docs/from-mediamtx.md does not speak of {key}");
    }
    // Another value than the default is never unknown.
    for (key, value) in root.entries().iter().filter(|(key, _)| key != "pathDefaults") {
        let other = if value.flag() == Some(false) { "yes" } else { "17" };
        let said = import(&format!("{key}: {other}\n"));
        assert!(!said.is_ok_and(|imported| imported.left_out.iter().any(|line| line.contains("unknown"))), "{key}");
    }
    for (key, value) in of_paths.entries() {
        let other = if value.flag() == Some(false) { "yes" } else { "17" };
        let said = import(&format!("pathDefaults:\n  {key}: {other}\n"));
        assert!(!said.is_ok_and(|imported| imported.left_out.iter().any(|line| line.contains("unknown"))), "{key}");
    }
}

#[test]
fn a_file_for_cameras_alone_leaves_nothing_out() {
    let text = "paths:\n  a:\n    source: rtsp://192.0.2.1/\n  all_others:\n";
    let imported = import(text).unwrap();
    assert!(imported.left_out.is_empty(), "{:?}", imported.left_out);
    assert!(!imported.notes.iter().any(|note| note.contains("nack")), "{:?}", imported.notes);
    assert!(import("").unwrap().left_out.is_empty());
}

#[test]
fn what_is_no_configuration_is_refused() {
    assert!(import("paths: [").is_err());
    assert!(import("- a\n- b\n").unwrap_err().contains("map"));
}

#[test]
fn text_cannot_break_out_of_its_line() {
    let text =
        "paths:\n  \"a\\nsource = 1\":\n    source: rtsp://192.0.2.1/\n  b:\n    source: \"rtsp://h/\\\"\\nx\"\n";
    let imported = import(text).unwrap();
    assert_eq!(imported.left_out.len(), 1, "{:?}", imported.left_out);
    let config = Config::parse(&imported.to_toml("m\nx = 1"), "t");
    assert!(config.is_ok(), "{config:?}");
}
