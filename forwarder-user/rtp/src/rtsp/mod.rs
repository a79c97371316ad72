//! RTSP 1.0 (RFC 2326) as cameras and encoders write it: read for what is needed, everything else is skipped.
//! Bytes come in, messages and frames go out; the cost is linear in the bytes, and every length has a bound.
//! `docs/cameras.md` has the table of what is taken and what is skipped.
//!
//! | file | does |
//! | --- | --- |
//! | `reader` | cuts a connection's bytes into frames and messages, and finds the next of them behind stray bytes |
//! | `message` | a request or an answer, and its header fields |
//! | `transport` | `Transport`: how a track comes (§12.39) |
//! | `challenge` | `WWW-Authenticate` and `Authorization` (RFC 7235, 7616, 7617) |
//! | `url` | addresses, with user and password taken out of them |

pub mod challenge;
pub mod message;
pub mod reader;
pub mod transport;
pub mod url;

/// Value of `name=value` among parts separated by semicolons: blanks and quotes around it do not belong to it.
pub fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The number at the beginning of a text, whatever stands behind it.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_numbers() {
        assert_eq!(parameter("12345; timeout = 30 ", "timeout"), Some("30"));
        assert_eq!(parameter("RTP/AVP/TCP;unicast;Interleaved=\"4-5\";ssrc=1", "interleaved"), Some("4-5"));
        assert_eq!(parameter("12345", "timeout"), None);
        for (text, value) in [("60", Some(60)), (" 60 s", Some(60)), ("s60", None), ("", None), ("-1", None)] {
            assert_eq!(number(text), value, "{text}");
        }
        assert_eq!(number(&"9".repeat(40)), None);
    }
}
