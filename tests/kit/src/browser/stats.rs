//! The report of `RTCPeerConnection.getStats()` (W3C webrtc-stats).

use std::fmt;

use serde_json::Value;

/// Media kind of a stream, as the report names it.
pub const KINDS: [&str; 2] = ["audio", "video"];

/// All entries of one report.
#[derive(Clone, Debug, Default)]
pub struct Stats(Vec<Value>);

/// Entries worth showing when a test fails.
const TELLING: [&str; 5] = ["transport", "inbound-rtp", "outbound-rtp", "remote-inbound-rtp", "remote-outbound-rtp"];

impl Stats {
    /// Takes the entries of a report, a JSON array of objects.
    #[must_use]
    pub fn new(entries: Value) -> Self {
        match entries {
            Value::Array(entries) => Self(entries),
            _ => Self::default(),
        }
    }

    /// The entry of a type that occurs once, such as `transport`.
    #[must_use]
    pub fn only(&self, kind_of_entry: &str) -> &Value {
        self.find(|entry| entry["type"] == kind_of_entry)
    }

    /// The first `inbound-rtp` entry of `kind`, `null` if there is none.
    #[must_use]
    pub fn inbound(&self, kind: &str) -> &Value {
        self.find(|entry| entry["type"] == "inbound-rtp" && entry["kind"] == kind)
    }

    /// The first `outbound-rtp` entry of `kind`, `null` if there is none.
    #[must_use]
    pub fn outbound(&self, kind: &str) -> &Value {
        self.find(|entry| entry["type"] == "outbound-rtp" && entry["kind"] == kind)
    }

    /// The first `remote-inbound-rtp` entry of `kind`: what the other side reports of it, `null` if there is none.
    #[must_use]
    pub fn remote_inbound(&self, kind: &str) -> &Value {
        self.find(|entry| entry["type"] == "remote-inbound-rtp" && entry["kind"] == kind)
    }

    /// Every `inbound-rtp` entry.
    pub fn all_inbound(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|entry| entry["type"] == "inbound-rtp")
    }

    /// The candidate pair in use, `null` if there is none.
    #[must_use]
    pub fn selected_pair(&self) -> &Value {
        let id = &self.only("transport")["selectedCandidatePairId"];
        self.find(|entry| entry["id"] == *id)
    }

    /// SRTP profile of the session, empty before DTLS is done (for example `SRTP_AEAD_AES_256_GCM`).
    #[must_use]
    pub fn srtp_cipher(&self) -> &str {
        self.only("transport")["srtpCipher"].as_str().unwrap_or_default()
    }

    /// Codec of a stream entry, as its MIME type (`video/VP8`).
    #[must_use]
    pub fn codec(&self, stream: &Value) -> &str {
        let id = &stream["codecId"];
        self.find(|entry| entry["type"] == "codec" && entry["id"] == *id)["mimeType"].as_str().unwrap_or_default()
    }

    fn find(&self, wanted: impl Fn(&Value) -> bool) -> &Value {
        self.0.iter().find(|entry| wanted(entry)).unwrap_or(&Value::Null)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = [self.selected_pair()].into_iter().filter(|pair| !pair.is_null());
        let telling = self.0.iter().filter(|entry| TELLING.iter().any(|telling| entry["type"] == *telling));
        for entry in telling.chain(pair) {
            writeln!(out, "  {entry}")?;
        }
        Ok(())
    }
}

/// A count of a stream entry; 0 while it is missing.
#[must_use]
pub fn count(stream: &Value, name: &str) -> u64 {
    let value = &stream[name];
    value.as_u64().or_else(|| value.as_f64().map(|value| value as u64)).unwrap_or(0)
}
