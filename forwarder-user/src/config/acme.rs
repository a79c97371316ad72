//! `[acme]`: a certificate for `http.listen_tls` and `rtsp.listen_tls` that the server gets itself (RFC 8555).

use std::path::PathBuf;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Secret, rights::url_problem};

/// Names in one certificate that authorities allow.
const MAX_NAMES: usize = 100;
/// Longest name of a host (RFC 1035 §2.3.4), as text.
const NAME_BYTES: usize = 253;
/// Longest part of one.
const LABEL_BYTES: usize = 63;

/// Who gives certificates, for which names, and how they are shown to be ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// Public names of this server; empty: no certificate is asked for.
    pub names: Vec<String>,
    /// URL of the authority's directory.
    pub directory: String,
    /// Whether the operator agrees to the authority's terms.
    pub terms_agreed: bool,
    /// Mail address for the authority; empty: none.
    pub contact: String,
    /// How the names are shown to be ours.
    pub challenge: AcmeChallenge,
    /// Where account and certificate are kept.
    pub state_dir: PathBuf,
    /// PEM file of the authorities who may vouch for the directory; empty: those of the system.
    pub directory_ca: PathBuf,
    /// Name of an account that is there already (RFC 8555 §7.3.4); empty: none is needed.
    pub eab_key_id: String,
    /// Its key, in base64url.
    pub eab_key: Secret,
}

/// How an authority finds that a name is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcmeChallenge {
    /// It connects to TCP port 443 of the name (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// It asks TCP port 80 of the name (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http01,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            terms_agreed: false,
            contact: String::new(),
            challenge: AcmeChallenge::default(),
            state_dir: "/var/lib/penstock/acme".into(),
            directory_ca: PathBuf::new(),
            eab_key_id: String::new(),
            eab_key: Secret::default(),
        }
    }
}

impl Acme {
    /// Whether certificates are asked for.
    pub fn is_on(&self) -> bool {
        !self.names.is_empty()
    }

    /// The bytes of [`eab_key`](Self::eab_key). `None`: it is no base64url.
    pub fn eab_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        let text = self.eab_key.expose().trim_end_matches('=');
        BASE64_URL_SAFE_NO_PAD.decode(text).ok().map(Zeroizing::new)
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(bad) = self.names.iter().find(|name| !is_host_name(name)) {
            return Some(("acme.names", format!("{bad:?} is no name of a host, e.g. \"tv.example.org\"")));
        }
        if self.names.len() > MAX_NAMES {
            return Some(("acme.names", format!("a certificate has at most {MAX_NAMES}")));
        }
        if let Some(problem) = url_problem(&self.directory) {
            return Some(("acme.directory", problem));
        }
        if !self.directory.starts_with("https://") {
            return Some(("acme.directory", "must be https://, or whoever listens could speak for it".into()));
        }
        if !self.terms_agreed {
            let problem = format!("must be true: whoever gets certificates of {} agrees to its terms", self.directory);
            return Some(("acme.terms_agreed", problem));
        }
        if !self.contact.is_empty() && !self.contact.contains('@') {
            return Some(("acme.contact", "is no mail address".into()));
        }
        if !self.state_dir.is_absolute() {
            return Some(("acme.state_dir", "must be an absolute path".into()));
        }
        let unusable = !self.eab_key_id.is_empty() && self.eab_key().is_none_or(|key| key.is_empty());
        unusable.then(|| ("acme.eab_key", "is needed with `acme.eab_key_id`, in base64url".into()))
    }
}

/// Of letters, digits and hyphens (RFC 1123 §2.1): neither an address nor a wildcard, which neither challenge is for.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        !label.is_empty() && label.len() <= LABEL_BYTES && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= NAME_BYTES && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Acme {
        Acme { names: vec!["tv.example".into()], terms_agreed: true, ..Acme::default() }
    }

    #[test]
    fn names_are_those_of_hosts() {
        for name in ["tv.example", "a-b.c1.example", "xn--bcher-kva.example", "localhost"] {
            assert!(is_host_name(name), "{name}");
        }
        let long = format!("{}.example", "x".repeat(64));
        for name in ["", "*.example", "tv.example.", "192.0.2.1", "TV.example", "a..b", "-a.example", "a b", &long] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(good().problem(), None);
        let wrong = |change: fn(&mut Acme)| {
            let mut acme = good();
            change(&mut acme);
            acme.problem().map(|(key, _)| key)
        };
        assert_eq!(wrong(|acme| acme.terms_agreed = false), Some("acme.terms_agreed"));
        assert_eq!(wrong(|acme| acme.directory = "http://ca.example/".into()), Some("acme.directory"));
        assert_eq!(wrong(|acme| acme.contact = "nobody".into()), Some("acme.contact"));
        assert_eq!(wrong(|acme| acme.state_dir = "here".into()), Some("acme.state_dir"));
        assert_eq!(wrong(|acme| acme.eab_key_id = "kid".into()), Some("acme.eab_key"));
        assert_eq!(wrong(|acme| acme.names.push("*.example".into())), Some("acme.names"));
    }
}
