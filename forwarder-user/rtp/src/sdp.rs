//! Lines of a description (SDP, RFC 8866) as cameras write it. RTSP needs `m=` and some attributes (RFC 2326 §C.1),
//! plain RTP `c=` as well; whatever else there is, or is broken, is skipped.

use std::net::IpAddr;

/// Most media sections, and most attributes of one.
const MAX_SECTIONS: usize = 32;
const MAX_ATTRIBUTES: usize = 256;
/// Longest line that is read: parameter sets of H.265 have about a kilobyte.
const MAX_LINE: usize = 16 << 10;

/// What stands before the first `m=`, or below one.
#[derive(Debug, Default)]
pub(crate) struct Section<'a> {
    /// `video`, `audio`, in small letters; empty before the first `m=`.
    pub(crate) kind: String,
    /// 0, as RTSP has it, if it is no number.
    pub(crate) port: u16,
    /// `RTP/AVP`, in capitals.
    pub(crate) protocol: String,
    /// What stands behind the protocol.
    pub(crate) formats: Vec<&'a str>,
    /// The address of `c=`.
    pub(crate) address: Option<IpAddr>,
    attributes: Vec<(&'a str, &'a str)>,
}

/// A description.
#[derive(Debug, Default)]
pub(crate) struct Sdp<'a> {
    pub(crate) session: Section<'a>,
    pub(crate) media: Vec<Section<'a>>,
    /// Lines of the form `x=`.
    pub(crate) lines: usize,
}

impl<'a> Section<'a> {
    /// Values of an attribute, without blanks around them.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.attributes.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The first value of an attribute.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// Whether there is an attribute, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn media(value: &'a str) -> Self {
        let mut words = value.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default().to_ascii_lowercase();
        // The number of ports stands behind a slash.
        let port = words.next().and_then(|port| port.split('/').next()?.parse().ok()).unwrap_or(0);
        let protocol = words.next().unwrap_or_default().to_ascii_uppercase();
        Self { kind, port, protocol, formats: words.take(128).collect(), ..Self::default() }
    }
}

impl<'a> Sdp<'a> {
    /// Reads lines, whatever ends them.
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut sdp = Self::default();
        let text = text.trim_start_matches('\u{feff}');
        // Zeros stand at the end of what was a string in C.
        for line in text.split(['\r', '\n', '\0']).map(str::trim).filter(|line| line.len() <= MAX_LINE) {
            let Some((kind, value)) = line.split_once('=') else { continue };
            let (kind, value) = (kind.trim_end(), value.trim());
            if kind.len() != 1 {
                continue;
            }
            sdp.lines += 1;
            match kind.to_ascii_lowercase().as_str() {
                "m" if sdp.media.len() >= MAX_SECTIONS => return sdp,
                "m" => sdp.media.push(Section::media(value)),
                "a" => sdp.attribute(value),
                "c" => {
                    let address = value.split_ascii_whitespace().nth(2);
                    // A group's address has its TTL behind a slash (RFC 8866 §5.7).
                    let address = address.and_then(|address| address.split('/').next()?.parse().ok());
                    let section = sdp.section();
                    section.address = section.address.or(address);
                }
                _ => {}
            }
        }
        sdp
    }

    fn section(&mut self) -> &mut Section<'a> {
        self.media.last_mut().unwrap_or(&mut self.session)
    }

    fn attribute(&mut self, value: &'a str) {
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        let section = self.section();
        if section.attributes.len() < MAX_ATTRIBUTES {
            section.attributes.push((name.trim(), value.trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_field_has_them() {
        // go2rtc#679 (nothing but these), go2rtc#2316 (the port), pixelbender/go-sdp#5 (the formats).
        let text = "\u{feff}v=0\rO=x\r\n  m=VIDEO\t-1353744643 rtp/avp 96\nc=IN IP4 '&\n a = rtpmap: 96 H264/90000\n\
                    a=Control:?a=b:c\nnothing\n=\nxy=1\nm=application/tp-link 0 RTP/AVP smart/0/25000\n\
                    c=IN IP4 239.1.2.3/16\r\n\r\nm=\nm=audio 5004/2 RTP/AVP 0 8\0\0\0";
        let sdp = Sdp::parse(text);
        assert_eq!(sdp.media.len(), 4);
        let [video, other, empty, audio] = &sdp.media[..] else { panic!("{sdp:?}") };
        assert_eq!((video.kind.as_str(), video.port, video.protocol.as_str()), ("video", 0, "RTP/AVP"));
        assert_eq!((video.get("rtpmap"), video.get("control")), (Some("96 H264/90000"), Some("?a=b:c")));
        assert_eq!((video.address, other.address), (None, "239.1.2.3".parse().ok()));
        assert_eq!((empty.kind.as_str(), audio.port, &audio.formats[..]), ("", 5004, &["0", "8"][..]));
    }

    #[test]
    fn what_is_too_much_is_left() {
        let many =
            format!("m=audio 0 RTP/AVP 0\n{}{}", "a=x\n".repeat(10_000), "m=video 0 RTP/AVP 96\n".repeat(10_000));
        let sdp = Sdp::parse(&many);
        assert_eq!((sdp.media.len(), sdp.media[0].all("x").count()), (MAX_SECTIONS, MAX_ATTRIBUTES));
        let long = format!("a=x:{}\nm=audio 0 RTP/AVP 0", "y".repeat(20_000));
        assert_eq!((Sdp::parse(&long).session.get("x"), Sdp::parse(&long).media.len()), (None, 1));
    }
}
