//! Reading, overriding and checking the configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use forwarder_common::maps::MAX_COPIES;

use super::{
    Config, EngineChoice, Secret, SrtpProfiles, TransmitterChoice, source::KEYFRAME_CACHE_KB, stream_name_problem,
};

/// Overrides `auth.publish_token`.
pub const ENV_PUBLISH_TOKEN: &str = "PENSTOCK_PUBLISH_TOKEN";
/// Overrides `auth.play_token`.
pub const ENV_PLAY_TOKEN: &str = "PENSTOCK_PLAY_TOKEN";
/// Overrides `auth.api_token`.
pub const ENV_API_TOKEN: &str = "PENSTOCK_API_TOKEN";
/// Overrides `acme.eab_key`.
pub const ENV_ACME_EAB_KEY: &str = "PENSTOCK_ACME_EAB_KEY";
/// Overrides `hooks.secret`.
pub const ENV_HOOKS_SECRET: &str = "PENSTOCK_HOOKS_SECRET";
/// Overrides `jwt.secret`.
pub const ENV_JWT_SECRET: &str = "PENSTOCK_JWT_SECRET";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, may not be read or is not UTF-8.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// As it was given on the command line.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The parser names line, column and key.
    #[error("{origin}: {}", error.to_string().trim_end())]
    Parse {
        /// Path of the file.
        origin: String,
        /// An unknown key, a wrong type, or no TOML.
        error: Box<toml::de::Error>,
    },
    /// Well-formed, and not possible.
    #[error("{origin}: {key}: {problem}")]
    Value {
        /// Path of the file, or the environment.
        origin: String,
        /// With its table, e.g. `media.port`.
        key: &'static str,
        /// In words: what is allowed.
        problem: String,
    },
}

impl Config {
    /// Reads a file, applies the environment, checks the values.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line or the key, and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The defaults with the environment's overrides.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if an override is unusable.
    pub fn from_defaults() -> Result<Self, ConfigError> {
        Self::parse("", "defaults")
    }

    /// Same as [`load`](Self::load) for text; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Parse { origin: origin.into(), error: Box::new(error) })?;
        config.override_secrets(|name| std::env::var(name).ok());
        config.check(origin)?;
        config.settle();
        Ok(config)
    }

    /// Takes over what one key says of others. After [`check`](Self::check).
    pub fn settle(&mut self) {
        if self.media.respect_firewall {
            (self.media.engine, self.media.transmitter) = (EngineChoice::Userspace, TransmitterChoice::Socket);
        }
    }

    fn override_secrets(&mut self, get: impl Fn(&str) -> Option<String>) {
        let (auth, jwt, hooks) = (&mut self.auth, &mut self.jwt, &mut self.hooks);
        for (name, secret) in [
            (ENV_ACME_EAB_KEY, &mut self.acme.eab_key),
            (ENV_PUBLISH_TOKEN, &mut auth.publish_token),
            (ENV_PLAY_TOKEN, &mut auth.play_token),
            (ENV_API_TOKEN, &mut auth.api_token),
            (ENV_JWT_SECRET, &mut jwt.secret),
            (ENV_HOOKS_SECRET, &mut hooks.secret),
        ] {
            if let Some(value) = get(name) {
                *secret = Secret::new(value);
            }
        }
    }

    /// Checks what types cannot express. `origin` names the source in errors.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first unusable key.
    pub fn check(&self, origin: &str) -> Result<(), ConfigError> {
        match self.first_problem() {
            None => Ok(()),
            Some((key, problem)) => Err(ConfigError::Value { origin: origin.into(), key, problem }),
        }
    }

    fn first_problem(&self) -> Option<(&'static str, String)> {
        self.address_problem()
            .or_else(|| self.range_problem())
            .or_else(|| self.token_problem())
            .or_else(|| self.auth.problem())
            .or_else(|| self.jwt.problem())
            .or_else(|| self.auth_http.problem())
            .or_else(|| self.hooks.problem())
            .or_else(|| self.acme_problem())
            .or_else(|| self.certificate_problem())
            .or_else(|| self.stream_problem())
            .or_else(|| self.debug_problem())
            .or_else(|| self.firewall_problem())
            .or_else(|| self.tcp_problem())
    }

    fn tcp_problem(&self) -> Option<(&'static str, String)> {
        let alone = self.media.tcp_port != 0 && self.media.engine == EngineChoice::Kernel;
        let problem = "is for the userspace engine, which `media.engine = \"kernel\"` leaves out";
        alone.then(|| ("media.tcp_port", problem.into()))
    }

    fn firewall_problem(&self) -> Option<(&'static str, String)> {
        let past = self.media.engine == EngineChoice::Kernel || self.media.transmitter == TransmitterChoice::Xdp;
        let problem =
            "is for sockets: `media.engine = \"kernel\"` and `media.transmitter = \"xdp\"` go past every rule";
        (self.media.respect_firewall && past).then(|| ("media.respect_firewall", problem.into()))
    }

    fn address_problem(&self) -> Option<(&'static str, String)> {
        if self.http.listen.is_empty() {
            return Some(("http.listen", "needs at least one address, e.g. \"0.0.0.0:8080\"".into()));
        }
        for origin in &self.http.allowed_origins {
            if origin != "*" && (axum::http::HeaderValue::from_str(origin).is_err() || !origin.contains("://")) {
                return Some((
                    "http.allowed_origins",
                    format!("{origin:?} is not an origin, e.g. \"https://a.example\""),
                ));
            }
        }
        if let Some(problem) = self.http.ice_servers.iter().find_map(super::IceServer::problem) {
            return Some(("http.ice_servers", problem));
        }
        if let Some(bad) = self.media.addresses.iter().find(|a| a.is_unspecified() || a.is_multicast()) {
            return Some(("media.addresses", format!("{bad} is not the address of an interface")));
        }
        if !self.media.srtp_profiles.contains(&SrtpProfiles::Gcm) {
            let problem = "must have \"gcm\": browsers choose it, and it cannot be switched off";
            return Some(("media.srtp_profiles", problem.into()));
        }
        if let Some((local, public)) =
            self.media.public_addresses.iter().find(|(l, p)| l.is_ipv4() != p.address.is_ipv4())
        {
            return Some(("media.public_addresses", format!("{local} and {public} are of different families")));
        }
        if let Some(bad) = self.kernel.interfaces.iter().find(|name| name.is_empty() || name.len() > 15) {
            return Some(("kernel.interfaces", format!("{bad:?} is not an interface name")));
        }
        if !self.kernel.pin_dir.is_absolute() {
            return Some(("kernel.pin_dir", "must be an absolute path".into()));
        }
        None
    }

    fn range_problem(&self) -> Option<(&'static str, String)> {
        let limits = &self.limits;
        let ranges: [(&'static str, u64, u64, u64); 35] = [
            ("media.port", self.media.port.into(), 1, 65535),
            ("http.header_timeout_ms", self.http.header_timeout_ms, 100, 600_000),
            ("http.request_timeout_ms", self.http.request_timeout_ms, 100, 600_000),
            ("kernel.keystream_memory_mb", self.kernel.keystream_memory_mb, 1, 1 << 20),
            ("kernel.copies_per_pass", self.kernel.copies_per_pass as u64, 1, MAX_COPIES as u64),
            ("media.dscp.audio", self.media.dscp.audio.into(), 0, 63),
            ("media.dscp.video", self.media.dscp.video.into(), 0, 63),
            ("limits.sessions", limits.sessions as u64, 1, 1 << 20),
            ("limits.publisher_tracks", limits.publisher_tracks as u64, 1, 1 << 16),
            ("limits.subscriber_tracks", limits.subscriber_tracks as u64, 1, 1 << 20),
            ("limits.viewers_per_stream", limits.viewers_per_stream as u64, 1, 1 << 16),
            ("limits.http_body_bytes", limits.http_body_bytes as u64, 1024, 16 << 20),
            ("limits.http_connections", limits.http_connections as u64, 1, 1 << 20),
            ("limits.http_requests", limits.http_requests as u64, 1, 1 << 20),
            ("media.socket_buffer_kb", self.media.socket_buffer_kb as u64, 64, 1 << 20),
            ("limits.source_max_kbps", limits.source_max_kbps, 64, 10_000_000),
            ("limits.publisher_max_kbps", limits.publisher_max_kbps, 64, 10_000_000),
            ("rtsp.connections", self.rtsp.connections as u64, 1, 1 << 16),
            ("rtsp.keyframe_cache_kb", self.rtsp.keyframe_cache_kb as u64, KEYFRAME_CACHE_KB.0, KEYFRAME_CACHE_KB.1),
            ("rtcp.interval_ms", self.rtcp.interval_ms, 100, 5_000),
            ("rtcp.source_interval_ms", self.rtcp.source_interval_ms, 100, 10_000),
            ("rtcp.remb_max_kbps", self.rtcp.remb_max_kbps.into(), 30, 1_000_000),
            ("rtcp.pli_min_interval_ms", self.rtcp.pli_min_interval_ms, 50, 60_000),
            ("rtcp.nack_kb", self.rtcp.nack_kb as u64, 16, 1 << 16),
            ("repair.memory_mb", self.repair.memory_mb as u64, 0, 1 << 20),
            ("ingest.gather_ms", self.ingest.gather_ms, 0, 100),
            ("jwt.jwks_refresh_s", self.jwt.jwks_refresh_s, 1, 86_400),
            ("jwt.leeway_s", self.jwt.leeway_s, 0, 300),
            ("auth_http.timeout_ms", self.auth_http.timeout_ms, 10, 60_000),
            ("auth_http.cache_ms", self.auth_http.cache_ms, 0, 600_000),
            ("hooks.timeout_ms", self.hooks.timeout_ms, 10, 60_000),
            ("hooks.queue", self.hooks.queue as u64, 1, 65_536),
            ("hooks.give_up_s", self.hooks.give_up_s, 1, 86_400),
            ("auth_http.recheck_ms", self.auth_http.recheck_ms, 0, 3_600_000),
            ("ingest.retry_max_s", self.ingest.retry_max_s, 1, 3600),
        ];
        ranges
            .into_iter()
            .find(|(_, value, least, most)| value < least || value > most)
            .map(|(key, value, least, most)| (key, format!("{value} is not between {least} and {most}")))
    }

    fn stream_problem(&self) -> Option<(&'static str, String)> {
        self.streams.iter().find_map(|(name, stream)| {
            let named = stream_name_problem(name).map(|problem| format!("{name:?}: {problem}"));
            let problem = named.or_else(|| stream.problem().map(|problem| format!("{name}: {problem}")))?;
            Some(("streams", problem))
        })
    }

    /// What ACME gets is the certificate of `http`, so that has no other.
    fn acme_problem(&self) -> Option<(&'static str, String)> {
        if !self.acme.is_on() {
            return None;
        }
        let files = [("http.certificate", &self.http.certificate), ("http.key", &self.http.key)];
        if let Some((key, _)) = files.iter().find(|(_, file)| !file.as_os_str().is_empty()) {
            return Some((key, "cannot be there together with `acme.names`, which gets one".into()));
        }
        if self.http.listen_tls.is_empty() {
            return Some(("acme.names", "`http.listen_tls` has no address that a certificate would be for".into()));
        }
        self.acme.problem()
    }

    /// Who speaks TLS needs a certificate: one of his own, or that of `http`.
    fn certificate_problem(&self) -> Option<(&'static str, String)> {
        let missing = |files: [(&'static str, &PathBuf); 2]| {
            files.into_iter().find(|(_, file)| file.as_os_str().is_empty()).map(|(key, _)| key)
        };
        let files = [("http.certificate", &self.http.certificate), ("http.key", &self.http.key)];
        let http = missing(files).filter(|_| !self.acme.is_on());
        let rtsp = missing([("rtsp.certificate", &self.rtsp.certificate), ("rtsp.key", &self.rtsp.key)]);
        let needs = |by: &str| format!("`{by}` needs this file, in PEM");
        if !self.http.listen_tls.is_empty() && http.is_some() {
            return http.map(|key| (key, needs("http.listen_tls")));
        }
        let none_of_rtsp = self.rtsp.certificate.as_os_str().is_empty() && self.rtsp.key.as_os_str().is_empty();
        if !self.rtsp.listen_tls.is_empty() && rtsp.is_some() && !(none_of_rtsp && http.is_none()) {
            return rtsp.map(|key| (key, needs("rtsp.listen_tls")));
        }
        (self.http.redirect_to_https && self.http.listen_tls.is_empty())
            .then(|| ("http.redirect_to_https", "there is no `http.listen_tls` to go to".into()))
    }

    fn debug_problem(&self) -> Option<(&'static str, String)> {
        let open = self.debug.profiles && self.debug.remote && self.auth.api_token.is_empty();
        open.then(|| ("debug.remote", "would show profiles to everybody: set `auth.api_token`".into()))
    }

    fn token_problem(&self) -> Option<(&'static str, String)> {
        let tokens = [
            ("auth.publish_token", &self.auth.publish_token),
            ("auth.play_token", &self.auth.play_token),
            ("auth.api_token", &self.auth.api_token),
        ];
        tokens
            .into_iter()
            .find(|(_, token)| !token.is_token())
            .map(|(key, _)| (key, "has characters that RFC 6750 does not allow: use A-Z a-z 0-9 - . _ ~ + / =".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/penstock.toml"));

    #[test]
    fn empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", "test").unwrap(), Config::default());
    }

    #[test]
    fn shipped_file_names_every_key_with_its_default() {
        let shipped: toml::Table = SHIPPED.parse().unwrap();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(shipped.keys().collect::<Vec<_>>().len(), defaults.len(), "sections");
        for (section, keys) in &defaults {
            let given = shipped.get(section).and_then(toml::Value::as_table);
            let given = given.unwrap_or_else(|| panic!("[{section}] is missing"));
            for (key, value) in keys.as_table().unwrap() {
                assert_eq!(given.get(key), Some(value), "{section}.{key}");
            }
            assert_eq!(given.len(), keys.as_table().unwrap().len(), "[{section}] has other keys");
        }
        Config::parse(SHIPPED, "shipped").unwrap();
    }

    #[test]
    fn shipped_file_explains_every_key() {
        let mut explained = false;
        for line in SHIPPED.lines() {
            if line.contains(" = ") && !line.starts_with('#') {
                assert!(explained, "no comment above {line:?}");
            }
            explained = line.starts_with('#');
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let unknown = Config::parse("[http]\n\nlissen = []\n", "my.toml").unwrap_err().to_string();
        assert!(unknown.contains("my.toml") && unknown.contains("line 3") && unknown.contains("lissen"), "{unknown}");
        assert!(unknown.contains("listen"), "suggests what is allowed: {unknown}");
        let mistyped = Config::parse("[media]\nport = \"x\"\n", "my.toml").unwrap_err().to_string();
        assert!(mistyped.contains("line 2") && mistyped.contains("port"), "{mistyped}");
        let range = Config::parse("[limits]\nviewers_per_stream = 99999\n", "my.toml").unwrap_err().to_string();
        assert_eq!(range, "my.toml: limits.viewers_per_stream: 99999 is not between 1 and 65536");
        let missing = Config::load(Path::new("/nonexistent/penstock.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/penstock.toml"), "{missing}");
    }

    #[test]
    fn unusable_values_are_refused() {
        for (text, key) in [
            ("[http]\nlisten = []", "http.listen"),
            ("[http]\nallowed_origins = [\"example\"]", "http.allowed_origins"),
            ("[media]\nport = 0", "media.port"),
            ("[media]\naddresses = [\"0.0.0.0\"]", "media.addresses"),
            ("[media]\npublic_addresses = { \"10.0.0.1\" = \"2001:db8::1\" }", "media.public_addresses"),
            ("[media]\nsrtp_profiles = [\"aes-cm-sha1-80\"]", "media.srtp_profiles"),
            ("[debug]\nprofiles = true\nremote = true", "debug.remote"),
            ("[media]\nrespect_firewall = true\nengine = \"kernel\"", "media.respect_firewall"),
            ("[rtsp]\nlisten_tls = [\"0.0.0.0:8322\"]\nkey = \"key.pem\"", "rtsp.certificate"),
            ("[rtsp]\nlisten_tls = [\"0.0.0.0:8322\"]\ncertificate = \"chain.pem\"", "rtsp.key"),
            ("[http]\nlisten_tls = [\"0.0.0.0:443\"]\nkey = \"key.pem\"", "http.certificate"),
            ("[http]\nredirect_to_https = true", "http.redirect_to_https"),
            ("[acme]\nnames = [\"tv.example\"]", "acme.names"),
            ("[http]\nlisten_tls = [\"[::]:443\"]\nkey = \"k\"\n[acme]\nnames = [\"tv.example\"]", "http.key"),
            ("[kernel]\ninterfaces = [\"a-name-that-is-far-too-long\"]", "kernel.interfaces"),
            ("[kernel]\npin_dir = \"here\"", "kernel.pin_dir"),
            ("[rtcp]\ninterval_ms = 1", "rtcp.interval_ms"),
            ("[ingest]\ngather_ms = 1000", "ingest.gather_ms"),
            ("[auth]\nplay_token = \"two words\"", "auth.play_token"),
        ] {
            match Config::parse(text, "t") {
                Err(ConfigError::Value { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn who_respects_the_firewall_has_sockets() {
        let media = Config::parse("[media]\nrespect_firewall = true\n", "test").unwrap().media;
        assert_eq!((media.engine, media.transmitter), (EngineChoice::Userspace, TransmitterChoice::Socket));
    }

    #[test]
    fn environment_overrides_secrets() {
        let mut config: Config = toml::from_str("[auth]\npublish_token = \"a\"\nplay_token = \"b\"").unwrap();
        config.override_secrets(|name| (name == ENV_PUBLISH_TOKEN).then(|| "c".into()));
        assert!(config.auth.publish_token.matches("c"));
        assert!(config.auth.play_token.matches("b"));
    }
}
