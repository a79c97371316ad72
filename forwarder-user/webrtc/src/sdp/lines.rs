//! Reading the lines of an SDP text: each once, and of each only what is used.
//!
//! Whoever sent the text has proved nothing yet. So the work is one step for each line and one for each word of
//! an `m=` or BUNDLE line, and what is kept are references into the text: a repeated line replaces nothing and
//! adds nothing, whatever it says of however many formats.

use super::extension::Numbers;
use super::steps::step;

/// Bytes of one line. Browsers' longest, that of a media section with all its payload types, has 300.
const MAX_LINE: usize = 4096;
/// Lines. A browser's offer has 100 to 300.
const MAX_LINES: usize = 4096;
/// Media sections that an offer may have; browsers make one per track.
pub(super) const MAX_SECTIONS: usize = 64;
/// Words behind the protocol of an `m=` line: there are no more payload types.
const MAX_FORMATS: usize = 128;
/// `a=rtcp-fb` of one section. Chromium has 100.
const MAX_FEEDBACK: usize = 512;
/// `a=candidate` in a text.
pub(super) const MAX_CANDIDATES: usize = 256;
/// `a=fingerprint` of one section: one for each hash function and certificate.
const MAX_FINGERPRINTS: usize = 16;
/// Longest `a=fmtp` that is kept, in bytes. It is compared with others' and repeated in the answer.
const MAX_FMTP: usize = 1024;

/// Kinds of feedback (RFC 4585 §4.2) that anybody here asks for; bits of [`Format::feedback`] by place.
pub(super) const FEEDBACK: [&str; 5] = ["nack", "nack pli", "ccm fir", "goog-remb", "transport-cc"];

/// The session part, or a media section.
#[derive(Default)]
pub(super) struct Part<'a> {
    /// The `m=` line; of the session part none.
    pub media: Option<Media<'a>>,
    pub mid: Option<&'a str>,
    /// (sends, receives).
    pub direction: Option<(bool, bool)>,
    pub ufrag: Option<&'a str>,
    pub pwd: Option<&'a str>,
    pub setup: Option<&'a str>,
    pub fingerprints: Vec<&'a str>,
    /// Of the session part: members of BUNDLE groups (RFC 9143).
    pub bundle: Vec<&'a str>,
    pub ice_lite: bool,
    /// `a=simulcast` (RFC 8853).
    pub simulcast: Option<&'a str>,
    /// Numbers of header extensions.
    pub extensions: Numbers,
    /// Asks for the round trip (`a=rtcp-xr`, RFC 3611 §5.1).
    pub receiver_rtt: bool,
    feedback_lines: usize,
}

/// An `m=` line, and what other lines say of its formats.
pub(super) struct Media<'a> {
    pub kind: &'a str,
    pub port: u16,
    pub protocol: &'a str,
    /// The first word of the list, whatever it is.
    pub first_format: &'a str,
    /// Payload types, each once, in the offerer's order.
    pub formats: Vec<Format<'a>>,
    /// Where a payload type stands in `formats`, plus one.
    places: [u8; 128],
    /// Feedback of all formats (`a=rtcp-fb:*`).
    pub feedback: u8,
}

/// What is said of a payload type.
#[derive(Default)]
pub(super) struct Format<'a> {
    pub payload_type: u8,
    pub rtpmap: Option<&'a str>,
    pub fmtp: Option<&'a str>,
    pub feedback: u8,
}

/// Session part and media sections.
pub(super) struct Parts<'a> {
    pub session: Part<'a>,
    pub sections: Vec<Part<'a>>,
}

/// Reads a text.
///
/// # Errors
/// A sentence: it is not SDP, or larger than any that is honest.
pub(super) fn read(text: &str) -> Result<Parts<'_>, String> {
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).peekable();
    if lines.peek() != Some(&"v=0") {
        return Err("this is not SDP: it does not start with v=0".into());
    }
    let mut parts = Parts { session: Part::default(), sections: vec![] };
    let mut candidates = 0;
    for (number, line) in lines.enumerate() {
        check(number, line)?;
        if let Some(words) = line.strip_prefix("m=") {
            if parts.sections.len() == MAX_SECTIONS {
                return Err(format!("the offer has more than {MAX_SECTIONS} media sections"));
            }
            parts.sections.push(Part { media: Some(media(line, words)?), ..Part::default() });
        } else if let Some(attribute) = line.strip_prefix("a=") {
            let part = parts.sections.last_mut().unwrap_or(&mut parts.session);
            part.attribute(attribute)?;
            candidates += usize::from(attribute.starts_with("candidate:"));
            if candidates > MAX_CANDIDATES {
                return Err(format!("the offer has more than {MAX_CANDIDATES} candidates"));
            }
        }
    }
    Ok(parts)
}

/// Is it a line of SDP, and not one too many?
///
/// # Errors
/// A sentence.
pub(super) fn check(number: usize, line: &str) -> Result<(), String> {
    step();
    if number >= MAX_LINES || line.len() > MAX_LINE {
        return Err(format!("this has more than {MAX_LINES} lines, or one of more than {MAX_LINE} bytes"));
    }
    let control = |c: char| c.is_control() && c != '\t';
    if line.as_bytes().get(1) != Some(&b'=') || line.chars().any(control) {
        return Err(format!("this is not SDP: line {:?}", line.chars().take(80).collect::<String>()));
    }
    Ok(())
}

/// Reads an `m=` line (RFC 8866 §5.14).
fn media<'a>(line: &str, words: &'a str) -> Result<Media<'a>, String> {
    let shown = || line.chars().take(80).collect::<String>();
    let mut words = words.split_ascii_whitespace();
    let (Some(kind), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("malformed media section: {:?}", shown()));
    };
    // The port may have a count behind it: of ports that a bundle does not use.
    let (port, count) = port.split_once('/').unwrap_or((port, "1"));
    let port = port.parse().ok().filter(|_| count.parse::<u16>().is_ok());
    let port = port.ok_or_else(|| format!("malformed port in {:?}", shown()))?;
    let mut media = Media { kind, port, protocol, first_format: "", formats: vec![], places: [0; 128], feedback: 0 };
    for (index, word) in words.enumerate() {
        step();
        if index == MAX_FORMATS {
            return Err(format!("a media section has more than {MAX_FORMATS} formats"));
        }
        if index == 0 {
            media.first_format = word;
        }
        let Some(payload_type) = word.parse::<u8>().ok().filter(|payload_type| *payload_type < 128) else { continue };
        let place = &mut media.places[usize::from(payload_type)];
        if *place == 0 {
            media.formats.push(Format { payload_type, ..Format::default() });
            // No more than 128.
            *place = media.formats.len() as u8;
        }
    }
    if media.first_format.is_empty() {
        return Err(format!("no format in {:?}", shown()));
    }
    Ok(media)
}

impl<'a> Part<'a> {
    /// Takes what stands behind `a=`.
    fn attribute(&mut self, attribute: &'a str) -> Result<(), String> {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let (name, value) = (name.trim(), value.trim());
        match name {
            "mid" => first(&mut self.mid, value),
            "ice-ufrag" => first(&mut self.ufrag, value),
            "ice-pwd" => first(&mut self.pwd, value),
            "setup" => first(&mut self.setup, value),
            "sendrecv" => first(&mut self.direction, (true, true)),
            "sendonly" => first(&mut self.direction, (true, false)),
            "recvonly" => first(&mut self.direction, (false, true)),
            "inactive" => first(&mut self.direction, (false, false)),
            "ice-lite" => self.ice_lite = true,
            "group" if self.media.is_none() => self.group(value)?,
            "fingerprint" => {
                if self.fingerprints.len() == MAX_FINGERPRINTS {
                    return Err(format!("more than {MAX_FINGERPRINTS} fingerprints (a=fingerprint) in one section"));
                }
                self.fingerprints.push(value);
            }
            "rtpmap" => with_format(&mut self.media, value, |format, rest| first(&mut format.rtpmap, rest)),
            "fmtp" if value.len() > MAX_FMTP => {
                return Err(format!("parameters of a format (a=fmtp) beyond {MAX_FMTP} bytes"));
            }
            "fmtp" => with_format(&mut self.media, value, |format, rest| first(&mut format.fmtp, rest)),
            "rtcp-fb" => self.feedback(value)?,
            "simulcast" => first(&mut self.simulcast, value),
            "extmap" => self.extensions.read(value),
            "rtcp-xr" => self.receiver_rtt |= value.contains("rcvr-rtt"),
            _ => {}
        }
        Ok(())
    }

    fn group(&mut self, value: &'a str) -> Result<(), String> {
        let mut words = value.split_ascii_whitespace();
        if words.next() != Some("BUNDLE") {
            return Ok(());
        }
        for word in words {
            step();
            if self.bundle.len() == MAX_SECTIONS {
                return Err(format!("a=group:BUNDLE names more than {MAX_SECTIONS} media sections"));
            }
            self.bundle.push(word);
        }
        Ok(())
    }

    fn feedback(&mut self, value: &'a str) -> Result<(), String> {
        self.feedback_lines += 1;
        if self.feedback_lines > MAX_FEEDBACK {
            return Err(format!("a media section has more than {MAX_FEEDBACK} lines a=rtcp-fb"));
        }
        let Some((payload_type, kind)) = value.split_once(blank) else { return Ok(()) };
        let bit = FEEDBACK.iter().position(|known| *known == kind.trim()).map_or(0, |place| 1 << place);
        match &mut self.media {
            Some(media) if payload_type == "*" => media.feedback |= bit,
            media => with_format(media, value, |format, _| format.feedback |= bit),
        }
        Ok(())
    }
}

fn blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// What stands first counts.
fn first<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

/// Enters what a line says of one payload type, if its section has that.
fn with_format<'a>(media: &mut Option<Media<'a>>, value: &'a str, enter: impl FnOnce(&mut Format<'a>, &'a str)) {
    let Some((payload_type, rest)) = value.split_once(blank) else { return };
    let Some(media) = media else { return };
    let place = payload_type.parse::<u8>().ok().and_then(|payload_type| media.places.get(usize::from(payload_type)));
    let place = place.and_then(|place| usize::from(*place).checked_sub(1));
    if let Some(format) = place.and_then(|place| media.formats.get_mut(place)) {
        enter(format, rest.trim());
    }
}
