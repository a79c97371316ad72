//! ICE fragments of PATCH requests (RFC 8840 §9, RFC 9725 §4.3).

use std::fmt::Write;

use super::answer::{LocalDescription, write_candidates};
use super::lines::{MAX_CANDIDATES, check};
use super::offer::check_credentials;

/// `application/trickle-ice-sdpfrag`, as far as we use it. Candidates are counted only: an
/// ICE-lite agent sends no checks, it learns the peer's addresses from the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// ICE credentials: those of the session, or new ones, which restart ICE.
    pub credentials: Option<(String, String)>,
    /// How many `a=candidate` lines there were.
    pub candidates: usize,
}

impl Fragment {
    /// Reads a fragment.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut ufrag, mut pwd, mut candidates, mut end) = (None, None, 0, false);
        for (number, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            check(number, line).map_err(|why| format!("this is not an SDP fragment: {why}"))?;
            let Some(attribute) = line.strip_prefix("a=") else { continue };
            match attribute.split_once(':').unwrap_or((attribute, "")) {
                ("ice-ufrag", value) if ufrag.is_none() => ufrag = Some(value.trim().to_owned()),
                ("ice-pwd", value) if pwd.is_none() => pwd = Some(value.trim().to_owned()),
                ("candidate", _) if candidates == MAX_CANDIDATES => {
                    return Err(format!("the fragment has more than {MAX_CANDIDATES} candidates"));
                }
                ("candidate", _) => candidates += 1,
                ("end-of-candidates", _) => end = true,
                _ => {}
            }
        }
        let credentials = match (ufrag, pwd) {
            (Some(ufrag), Some(pwd)) => {
                check_credentials(&ufrag, &pwd)?;
                Some((ufrag, pwd))
            }
            (None, None) => None,
            _ => return Err("the fragment has only one of a=ice-ufrag and a=ice-pwd".into()),
        };
        if credentials.is_none() && candidates == 0 && !end {
            return Err("the fragment has neither ICE credentials nor candidates".into());
        }
        Ok(Self { credentials, candidates })
    }
}

impl LocalDescription {
    /// The fragment that answers a restart (RFC 9725 §4.3.3): new credentials and our candidates.
    pub fn to_fragment(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "a=ice-lite\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", self.ufrag, self.pwd);
        write_candidates(&mut text, self);
        text.push_str("a=end-of-candidates\r\n");
        text
    }
}
