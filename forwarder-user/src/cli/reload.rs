//! SIGHUP: takes over what a running server can, and says what it cannot. Nobody is disconnected.

use std::collections::BTreeSet;

use super::{
    edit,
    logging::{self, Level},
    options::Options,
};
use crate::{
    config::{Config, Rtcp, SrtpProfiles},
    http::{self, Change},
    stream::{Control, LiveConfig},
};

/// What a reload changes.
pub(super) struct Reload {
    /// The configuration in force: live keys as they are now, the others as at the start.
    pub config: Config,
    pub level: Level,
    pub control: Control,
    pub settings: http::Settings,
    /// Streams with a source at the start, which the engine's tables have room for.
    pub sources: usize,
}

/// The control task's part of the live keys.
pub(super) fn live(config: &Config) -> LiveConfig {
    LiveConfig {
        report_interval: config.rtcp.interval(),
        source_report_interval: config.rtcp.source_interval(),
        remb_max: u64::from(config.rtcp.remb_max_kbps) * 1000,
        keyframe_interval: config.rtcp.pli_min_interval(),
        counter_mode: config.media.srtp_profiles.contains(&SrtpProfiles::AesCmSha1_80),
        codecs: config.media.codecs.clone(),
        max_viewers: {
            let limited = config.streams.iter().filter(|(_, stream)| stream.max_viewers > 0);
            limited.map(|(name, stream)| (name.clone(), stream.max_viewers)).collect()
        },
    }
}

impl Reload {
    /// Reads the file again. A mistake in it changes nothing.
    pub(super) async fn run(&mut self, options: &Options) {
        if options.config.is_none() {
            tracing::warn!("SIGHUP: there is no file to read again, the server was started without --config");
            return;
        }
        let wanted = options.config().and_then(|config| logging::filter(&config.log.level).map(|_| config));
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!("SIGHUP: nothing is changed, the configuration cannot be used: {error:#}");
                return;
            }
        };
        let config = with_live_keys(&self.config, &wanted);
        let waiting = differences(&config, &wanted);
        let changed = self.take(config).await;
        if !waiting.is_empty() {
            tracing::warn!("SIGHUP: these need a restart: {}", waiting.join(", "));
        }
        let changed = if changed.is_empty() { "nothing".into() } else { changed.join(", ") };
        tracing::info!("SIGHUP: read the configuration, changed: {changed}");
    }

    /// Takes over a configuration that differs in live keys alone. Which ones.
    async fn take(&mut self, config: Config) -> Vec<String> {
        let changed = differences(&self.config, &config);
        if self.config.log.level != config.log.level
            && let Err(error) = self.level.set(&config.log.level)
        {
            tracing::error!("log.level stays: {error:#}");
        }
        self.settings.set(&config);
        self.control.configure(live(&config), config.sources()).await;
        self.config = config;
        let more = self.config.sources().len().saturating_sub(self.sources);
        if more > 0 {
            tracing::warn!(
                "{more} streams with a source more than at the start: until a restart their tracks take room of \
                 limits.publisher_tracks, which is {}",
                self.config.limits.publisher_tracks
            );
        }
        changed
    }

    /// Does what the API asks for.
    pub(super) async fn change(&mut self, change: Change) {
        match change {
            Change::Show { reply } => drop(reply.send(shown(&self.config))),
            Change::Patch { patch, reply } => {
                let patched = match edit::patched(&self.config, &patch) {
                    Ok(config) => {
                        let _: () = self.take_by_api(config).await;
                        Ok(())
                    }
                    Err(refused) => Err(refused),
                };
                let _ = reply.send(patched.map(|()| shown(&self.config)));
            }
            Change::Stream { name, edit, persist, reply } => {
                let edited = match edit::stream(&self.config, &name, edit, persist).await {
                    Ok((config, new)) => {
                        self.take_by_api(config).await;
                        Ok(new)
                    }
                    Err(refused) => Err(refused),
                };
                let _ = reply.send(edited);
            }
        }
    }

    async fn take_by_api(&mut self, config: Config) {
        let changed = self.take(config).await;
        tracing::info!("by the API changed: {}", changed.join(", "));
    }
}

/// Without secrets.
fn shown(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// `running` with the live keys of `wanted`.
pub(super) fn with_live_keys(running: &Config, wanted: &Config) -> Config {
    let mut config = running.clone();
    config.http.index = wanted.http.index;
    config.http.open_management = wanted.http.open_management;
    config.http.ice_servers = wanted.http.ice_servers.clone();
    config.http.request_timeout_ms = wanted.http.request_timeout_ms;
    config.limits.http_body_bytes = wanted.limits.http_body_bytes;
    config.media.srtp_profiles = wanted.media.srtp_profiles.clone();
    config.media.codecs = wanted.media.codecs.clone();
    // What tracks keep is decided when they begin.
    let (nack, nack_kb) = (running.rtcp.nack, running.rtcp.nack_kb);
    config.rtcp = Rtcp { nack, nack_kb, ..wanted.rtcp.clone() };
    config.auth = wanted.auth.clone();
    config.jwt = wanted.jwt.clone();
    config.auth_http = wanted.auth_http.clone();
    config.debug = wanted.debug.clone();
    config.streams = wanted.streams.clone();
    config.log.level = wanted.log.level.clone();
    config
}

/// Keys that differ.
pub(super) fn differences(a: &Config, b: &Config) -> Vec<String> {
    let table = |config: &Config| toml::Table::try_from(config).unwrap_or_default();
    let (left, right) = (table(a), table(b));
    let mut keys = Vec::new();
    for (section, values) in left.iter().filter(|(section, _)| *section != "streams") {
        let other = right.get(section).and_then(toml::Value::as_table);
        let values = values.as_table().into_iter().flatten();
        let differ = values.filter(|(key, value)| other.and_then(|other| other.get(*key)) != Some(value));
        keys.extend(differ.map(|(key, _)| format!("{section}.{key}")));
    }
    let names: BTreeSet<&String> = a.streams.keys().chain(b.streams.keys()).collect();
    let changed = names.into_iter().filter(|name| a.streams.get(*name) != b.streams.get(*name));
    keys.extend(changed.map(|name| format!("streams.{name}")));
    // Secrets are written as "(redacted)".
    for (key, differs) in [
        ("auth.publish_token", a.auth.publish_token != b.auth.publish_token),
        ("auth.play_token", a.auth.play_token != b.auth.play_token),
        ("auth.api_token", a.auth.api_token != b.auth.api_token),
        ("auth.users", a.auth.users != b.auth.users),
        ("jwt.secret", a.jwt.secret != b.jwt.secret),
        ("hooks.secret", a.hooks.secret != b.hooks.secret),
        ("acme.eab_key", a.acme.eab_key != b.acme.eab_key),
    ] {
        if differs && !keys.iter().any(|known| known == key) {
            keys.push(key.into());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn differences_are_named() {
        let old = Config::default();
        let mut new = old.clone();
        assert!(differences(&old, &new).is_empty());
        new.media.port = 9;
        new.rtcp.interval_ms = 500;
        new.auth.play_token = Secret::new("a");
        assert_eq!(differences(&old, &new), ["auth.play_token", "media.port", "rtcp.interval_ms"]);
        let mut newer = new.clone();
        newer.auth.play_token = Secret::new("b");
        assert_eq!(differences(&new, &newer), ["auth.play_token"]);
        let taken = with_live_keys(&old, &new);
        assert_eq!(differences(&taken, &new), ["media.port"]);
        let cameras = |text: &str| toml::from_str::<Config>(text).unwrap();
        let a = cameras("[streams.a]\nsource = \"rtsp://u:one@192.0.2.1/\"\n[streams.b]\nsource = \"rtsp://b/\"");
        let b = cameras("[streams.a]\nsource = \"rtsp://u:two@192.0.2.1/\"\n[streams.c]\nsource = \"rtsp://c/\"");
        assert_eq!(differences(&a, &b), ["streams.a", "streams.b", "streams.c"]);
        assert!(differences(&with_live_keys(&a, &b), &b).is_empty());
    }

    #[test]
    fn the_shipped_file_marks_exactly_the_live_keys() {
        const SHIPPED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/penstock.toml"));
        let (mut section, mut comment, mut marked) = (String::new(), String::new(), BTreeSet::new());
        for line in SHIPPED.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').into();
            }
            match line.split_once(" = ") {
                Some((key, _)) if !line.starts_with('#') => {
                    if comment.starts_with("# [live]") {
                        marked.insert(format!("{section}.{key}"));
                    }
                    comment.clear();
                }
                _ if line.starts_with('#') => comment.push_str(line),
                _ => comment.clear(),
            }
        }
        // All keys changed: what is left to differ after a reload are those that need a restart.
        let old = toml::Table::try_from(Config::default()).unwrap();
        let live: BTreeSet<String> = old
            .iter()
            .flat_map(|(section, keys)| keys.as_table().unwrap().keys().map(move |key| (section.clone(), key.clone())))
            .filter(|(section, key)| is_live(section, key))
            .map(|(section, key)| format!("{section}.{key}"))
            .collect();
        assert_eq!(marked, live);
    }

    /// Whether a change of this key is taken over.
    fn is_live(section: &str, key: &str) -> bool {
        let text = match (section, key) {
            ("http" | "rtsp", "listen" | "listen_tls" | "health_listen") => "[\"127.0.0.1:1\"]",
            ("acme", "names") => "[\"tv.example\"]",
            ("acme", "terms_agreed") => "true",
            ("acme", "challenge") => "\"http-01\"",
            ("acme", _) => "\"/x\"",
            ("http" | "rtsp", "certificate" | "key") => "\"file.pem\"",
            ("http", "redirect_to_https" | "proxy_protocol") => "true",
            ("http", "allowed_origins") => "[\"https://a.example\"]",
            ("http", "index") => "false",
            ("http", "open_management") => "true",
            ("http", "ice_servers") => "[{ url = \"stun:a.example\" }]",
            ("http", "trusted_proxies") => "[\"127.0.0.1\"]",
            ("media", "addresses") => "[\"192.0.2.1\"]",
            ("media", "engine") => "\"kernel\"",
            ("media", "srtp_profiles") => "[\"gcm\"]",
            ("media", "codecs") => "[\"AV1\"]",
            ("media", "dtls") => "\"str0m\"",
            ("media", "dscp") => "{ audio = 46 }",
            ("media", "public_addresses") => "{ \"192.0.2.1\" = \"192.0.2.2\" }",
            ("kernel", "interfaces") => "[\"eth7\"]",
            ("kernel", "mode") => "\"generic\"",
            ("media", "transmitter") => "\"socket\"",
            ("kernel", "bpf_stats") | ("debug", "profiles" | "remote") => "true",
            ("rtsp", "audio") => "\"opus\"",
            ("rtsp", "keyframe_cache") | ("media", "respect_firewall") => "true",
            ("rtcp", "nack") => "false",
            ("kernel", "pin_dir") => "\"/elsewhere\"",
            ("auth", "token_in_query") => "false",
            ("auth", "users") => "[{ name = \"any\", permissions = [] }]",
            ("auth", _) => "\"x\"",
            ("jwt", "single_use") => "true",
            ("jwt", "jwks" | "public_key" | "audience" | "issuer" | "claim" | "secret") => "\"x\"",
            ("auth_http", "url") => "\"x\"",
            ("auth_http", "actions") => "[\"publish\"]",
            ("api", "streams_file") => "\"/x\"",
            ("hooks", "events") => "[\"stream_gone\"]",
            ("hooks", "timeout_ms" | "queue" | "give_up_s") => "2345",
            ("hooks", _) => "\"x\"",
            ("log", "level") => "\"debug\"",
            ("log", "format") => "\"json\"",
            ("rtcp", "interval_ms") => "1234",
            _ => "2345",
        };
        let wanted: Config = toml::from_str(&format!("[{section}]\n{key} = {text}")).unwrap();
        let running = Config::default();
        assert_eq!(differences(&running, &wanted).len(), 1, "{section}.{key}");
        differences(&with_live_keys(&running, &wanted), &wanted).is_empty()
    }
}
