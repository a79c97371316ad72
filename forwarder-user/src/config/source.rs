//! `[streams.NAME]`: streams whose publisher we fetch ourselves.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use penstock_rtp::{
    description::{Description, DescriptionError, Sound, Writer},
    rtsp::url::{Credentials, Url},
};

use super::Secret;

/// A stream with a source of its own, or with limits of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// The camera to connect to.
    #[serde(default, skip_serializing_if = "SourceUrl::is_absent")]
    pub source: SourceUrl,
    /// Instead: what an encoder sends here by RTP, and to which address and ports (SDP).
    #[serde(default)]
    pub sdp: String,
    /// The same in a file, which is read at each attempt.
    #[serde(default)]
    pub sdp_file: PathBuf,
    /// Interface by which a multicast group of `sdp` is joined; empty: that of the route to it.
    #[serde(default)]
    pub interface: String,
    /// The only address that may send what `sdp` describes.
    #[serde(default)]
    pub sender: Option<IpAddr>,
    /// Of `source`; without effect where `sdp` describes it.
    #[serde(default)]
    pub transport: RtspTransport,
    /// What becomes of sound that browsers do not play.
    #[serde(default)]
    pub audio: Sound,
    /// Connect at the first viewer and disconnect after the last, instead of always.
    #[serde(default)]
    pub on_demand: bool,
    /// SHA-256 of the certificate of an `rtsps` source, in hexadecimal; empty: its name and issuer decide.
    #[serde(default)]
    pub fingerprint: String,
    /// New viewers begin with the last keyframe instead of waiting for the next one.
    #[serde(default)]
    pub keyframe_cache: bool,
    /// Most memory for it.
    #[serde(default = "default_keyframe_cache_kb")]
    pub keyframe_cache_kb: usize,
    /// Most viewers at a time, players by RTSP included; 0: as many as the server may have.
    #[serde(default)]
    pub max_viewers: usize,
}

/// Ten seconds of 3 Mbit/s.
pub(super) fn default_keyframe_cache_kb() -> usize {
    4096
}

/// Least and most memory for a keyframe cache. A keyframe alone takes about the least.
pub(super) const KEYFRAME_CACHE_KB: (u64, u64) = (64, 1 << 20);

/// What is wrong with a wish for Opus.
pub(super) fn audio_problem(audio: Sound) -> Option<&'static str> {
    (audio == Sound::Opus && !cfg!(feature = "aac"))
        .then_some("`audio = \"opus\"` needs a build with the feature `aac`")
}

impl Stream {
    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        let given = [!self.source.is_absent(), !self.sdp.is_empty(), !self.sdp_file.as_os_str().is_empty()];
        match given.iter().filter(|given| **given).count() {
            0 if self.max_viewers > 0 => return self.problem_without_source(),
            1 => {}
            _ => {
                let problem = "it needs one of `source`, `sdp` and `sdp_file`, and no more than one, or `max_viewers`";
                return Some(problem.into());
            }
        }
        if let Err(problem) = &self.source.0
            && !self.is_plain_rtp()
        {
            return Some(problem.clone());
        }
        if !self.is_plain_rtp() && (!self.interface.is_empty() || self.sender.is_some()) {
            return Some("`interface` and `sender` go with `sdp` or `sdp_file` only".into());
        }
        if !self.sdp.is_empty()
            && let Err(DescriptionError::Malformed(why)) = Description::parse(self.sdp.as_bytes(), Writer::Sender)
        {
            return Some(format!("`sdp` is malformed: {why}"));
        }
        if let Some(problem) = audio_problem(self.audio) {
            return Some(problem.into());
        }
        let (least, most) = KEYFRAME_CACHE_KB;
        if !(least..=most).contains(&(self.keyframe_cache_kb as u64)) {
            return Some(format!("`keyframe_cache_kb` is not between {least} and {most}"));
        }
        if self.fingerprint.is_empty() || self.certificate_hash().is_some() {
            None
        } else {
            Some("`fingerprint` is not a SHA-256 in hexadecimal (64 digits)".into())
        }
    }

    /// Of what a publisher of its own sends, nothing is to be said here.
    fn problem_without_source(&self) -> Option<String> {
        let alone = Self { max_viewers: self.max_viewers, ..Self::without_source() };
        (*self != alone).then(|| "without a source it has `max_viewers` and nothing else".into())
    }

    fn without_source() -> Self {
        Self {
            source: SourceUrl::default(),
            sdp: String::new(),
            sdp_file: PathBuf::new(),
            interface: String::new(),
            sender: None,
            transport: RtspTransport::default(),
            on_demand: false,
            fingerprint: String::new(),
            keyframe_cache: false,
            keyframe_cache_kb: default_keyframe_cache_kb(),
            max_viewers: 0,
            audio: Default::default(),
        }
    }

    /// Whether its media comes from a camera or an encoder that is named here.
    pub fn has_source(&self) -> bool {
        !self.source.is_absent() || !self.sdp.is_empty() || !self.sdp_file.as_os_str().is_empty()
    }

    /// Whether an encoder sends here unasked.
    pub fn is_plain_rtp(&self) -> bool {
        self.source.is_absent()
    }

    /// Size of its keyframe cache; 0: it has none.
    pub fn kept_bytes(&self) -> usize {
        if self.keyframe_cache { self.keyframe_cache_kb * 1024 } else { 0 }
    }

    /// Where the media comes from, for log and API.
    pub fn origin(&self) -> String {
        match (self.is_plain_rtp(), self.sdp.is_empty()) {
            (false, _) => self.source.to_string(),
            (true, true) => format!("rtp described by {}", self.sdp_file.display()),
            (true, false) => "rtp described in the configuration".into(),
        }
    }

    /// `fingerprint` as bytes.
    pub fn certificate_hash(&self) -> Option<[u8; 32]> {
        let digits: Vec<u8> = self.fingerprint.bytes().filter(|byte| *byte != b':').collect();
        let mut hash = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(hash)
    }
}

/// How RTP comes from an RTSP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RtspTransport {
    /// By TCP; by UDP if the server refuses that.
    #[default]
    Auto,
    /// Interleaved in the RTSP connection.
    Tcp,
    /// To ports of ours, beside the RTSP connection; packets may be lost.
    Udp,
}

/// An `rtsp` or `rtsps` URL, whose user and password are never printed.
///
/// A text that is no such URL is kept as what is wrong with it: were it refused while the file is read,
/// the message would show the line, and with it the password.
#[derive(Clone, PartialEq)]
pub struct SourceUrl(Result<Parsed, String>);

#[derive(Clone, PartialEq)]
struct Parsed {
    url: Url,
    credentials: Option<(String, Secret)>,
}

impl Default for SourceUrl {
    fn default() -> Self {
        Self(Err(String::new()))
    }
}

impl SourceUrl {
    /// Whether there is none, not even a wrong one.
    fn is_absent(&self) -> bool {
        matches!(&self.0, Err(problem) if problem.is_empty())
    }

    fn parse(text: &str) -> Result<Parsed, String> {
        let (url, credentials) = Url::parse(text).map_err(|error| format!("`source` {error}"))?;
        let credentials = credentials.map(|Credentials { user, password }| (user, Secret::new(password)));
        Ok(Parsed { url, credentials })
    }

    /// The URL without user and password; `None` if it is not one.
    pub fn url(&self) -> Option<&Url> {
        self.0.as_ref().ok().map(|parsed| &parsed.url)
    }

    /// User and password.
    pub fn credentials(&self) -> Option<(&str, &Secret)> {
        let (user, password) = self.0.as_ref().ok()?.credentials.as_ref()?;
        Some((user, password))
    }
}

impl<'de> Deserialize<'de> for SourceUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(Self::parse(&text)))
    }
}

impl Serialize for SourceUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

/// Without user and password.
impl std::fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.url().map_or("(not a URL)", Url::as_str))
    }
}

impl std::fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    fn problem(source: &str) -> String {
        match Config::parse(&format!("[streams.cam]\nsource = \"{source}\"\n"), "t") {
            Err(error @ ConfigError::Value { .. }) => error.to_string(),
            other => panic!("{source}: {other:?}"),
        }
    }

    #[test]
    fn credentials_are_taken_apart_and_never_shown() {
        let text = "[streams.cam]\nsource = \"rtsp://me:s3%40cret@[2001:db8::1]/a?b=c\"\ntransport = \"udp\"\n";
        let config = Config::parse(text, "t").unwrap();
        let source = &config.streams["cam"].source;
        assert_eq!(source.url().unwrap().as_str(), "rtsp://[2001:db8::1]/a?b=c");
        let (user, password) = source.credentials().unwrap();
        assert!(user == "me" && password.matches("s3@cret"));
        let url = source.url().unwrap();
        assert_eq!((url.host(), url.port()), ("2001:db8::1", 554));
        let shown = format!("{config:?}{}", toml::to_string(&config).unwrap());
        assert!(shown.contains("2001:db8::1") && !shown.contains("s3@") && !shown.contains("40cret"), "{shown}");
    }

    #[test]
    fn a_stream_has_one_way_in() {
        let sdp = "sdp = \"\"\"\nv=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=audio 5004 RTP/AVP 0\n\"\"\"\n";
        let stream = |text: &str| Config::parse(&format!("[streams.enc]\n{text}"), "t");
        assert_eq!(stream(sdp).unwrap().streams["enc"].origin(), "rtp described in the configuration");
        assert!(stream("sdp_file = \"/etc/enc.sdp\"\ninterface = \"eth1\"\nsender = \"192.0.2.7\"\n").is_ok());
        let wrong = [
            String::new(),
            format!("source = \"rtsp://host/\"\n{sdp}"),
            "source = \"rtsp://host/\"\ninterface = \"eth1\"\n".into(),
            "sdp = \"hello\"\n".into(),
        ];
        for (text, words) in wrong.iter().zip(["one of", "no more", "go with", "malformed"]) {
            let problem = stream(text).unwrap_err().to_string();
            assert!(problem.contains(words) && problem.contains("enc"), "{problem}");
        }
    }

    #[test]
    fn a_stream_without_a_source_may_have_limits() {
        let stream = |text: &str| Config::parse(&format!("[streams.show]\n{text}"), "t");
        let config = stream("max_viewers = 9\n").unwrap();
        assert!(config.sources().is_empty() && config.streams["show"].max_viewers == 9);
        let problem = stream("max_viewers = 9\non_demand = true\n").unwrap_err().to_string();
        assert!(problem.contains("nothing else"), "{problem}");
        assert_eq!(stream("source = \"rtsp://host/\"\nmax_viewers = 9\n").unwrap().sources().len(), 1);
    }

    #[test]
    fn what_is_no_source_is_named_without_the_password() {
        for (source, words) in [
            ("http://me:s3cret@host/", "rtsps"),
            ("rtsp://me:s3cret@host:99999/", "%40"),
            ("me:s3cret@host", "scheme"),
            ("rtsp://me:s3cret@/", "host"),
        ] {
            let problem = problem(source);
            assert!(problem.contains(words) && problem.contains("cam") && !problem.contains("s3"), "{problem}");
        }
        let text = "[streams.cam]\nsource = \"rtsps://host/\"\nfingerprint = \"12\"\n";
        assert!(Config::parse(text, "t").unwrap_err().to_string().contains("SHA-256"));
        let text = "[streams.cam]\nsource = \"rtsp://host/\"\nkeyframe_cache = true\nkeyframe_cache_kb = 63\n";
        assert!(Config::parse(text, "t").unwrap_err().to_string().contains("between 64"));
        let text = "[streams.\"a b\"]\nsource = \"rtsp://host/\"\n";
        assert!(Config::parse(text, "t").unwrap_err().to_string().contains("a b"));
    }
}
