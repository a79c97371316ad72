//! Reading an SDP offer.

use penstock_media::Kind;
use penstock_media::codec::{Codec, Format};

/// Media sections that an offer may have; browsers make one per track.
const MAX_SECTIONS: usize = 64;

/// Who starts the DTLS handshake (RFC 8842 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The offerer leaves it to us: we wait for its handshake.
    ActPass,
    /// The offerer starts the handshake.
    Active,
    /// The offerer waits: we start the handshake.
    Passive,
}

/// The offerer's transport: ICE credentials and DTLS certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDescription {
    /// Value of `a=ice-ufrag`, 4 to 256 characters (RFC 8839 §5.4).
    pub ufrag: String,
    /// Value of `a=ice-pwd`, 22 to 256 characters (RFC 8839 §5.4).
    pub pwd: String,
    /// Upper-case hexadecimal octets with colons, SHA-256 of the certificate.
    pub fingerprint: String,
    /// What the offer leaves to us decides who is the DTLS client.
    pub setup: Setup,
}

/// One media section.
#[derive(Clone, Debug)]
pub struct Section {
    /// `None`: neither audio nor video.
    pub kind: Option<Kind>,
    /// First words of the `m=` line: media, port, protocol, formats.
    pub media: String,
    /// Only `UDP/TLS/RTP/SAVPF` is usable (RFC 5764 §8).
    pub protocol: String,
    /// Repeated as they are where a section is rejected.
    pub formats_text: Vec<String>,
    /// `a=mid`.
    pub mid: String,
    /// The offerer sends media in it.
    pub sends: bool,
    /// The offerer receives media in it.
    pub receives: bool,
    /// The offerer has closed it: port 0 and not bundled.
    pub closed: bool,
    /// Payload types that we could carry, in the offerer's order of preference.
    pub formats: Vec<Format>,
    /// Encoding names that we do not know or carry, for messages.
    pub unknown: Vec<String>,
}

impl Section {
    /// Audio or video over DTLS-SRTP.
    pub fn usable(&self) -> bool {
        self.kind.is_some() && !self.closed && self.protocol == "UDP/TLS/RTP/SAVPF"
    }
}

/// An offer, as far as we use it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Of the transport that all usable sections share by BUNDLE.
    pub remote: RemoteDescription,
    /// In the offer's order, at least one, at most 64; each `mid` is there once.
    pub sections: Vec<Section>,
}

/// Lines of the session part or of one media section, after its first line.
type Lines<'a> = Vec<&'a str>;

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (session, sections) = split(text)?;
        if sections.is_empty() {
            return Err("the offer has no media section (no m= line)".into());
        }
        if sections.len() > MAX_SECTIONS {
            return Err(format!("the offer has more than {MAX_SECTIONS} media sections"));
        }
        let bundled: Vec<&str> = attributes(&session, "group")
            .filter_map(|group| group.strip_prefix("BUNDLE"))
            .flat_map(str::split_ascii_whitespace)
            .collect();
        let default_direction = direction(&session).unwrap_or((true, true));
        let parsed =
            sections.iter().map(|lines| section(lines, &bundled, default_direction)).collect::<Result<Vec<_>, _>>()?;
        for (i, one) in parsed.iter().enumerate() {
            if parsed[..i].iter().any(|other| other.mid == one.mid) {
                return Err(format!("two media sections have the identification tag (a=mid) {}", one.mid));
            }
        }
        let usable = parsed.iter().filter(|section| section.usable());
        if usable.clone().count() > 1 && usable.clone().any(|section| !bundled.contains(&section.mid.as_str())) {
            return Err("the media sections are not all in one BUNDLE group (a=group:BUNDLE)".into());
        }
        let remote = transport(&session, &sections, &parsed)?;
        Ok(Self { remote, sections: parsed })
    }
}

/// Session lines, then the lines of each media section, `m=` first.
fn split(text: &str) -> Result<(Lines<'_>, Vec<Lines<'_>>), String> {
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).peekable();
    if lines.peek() != Some(&"v=0") {
        return Err("this is not SDP: it does not start with v=0".into());
    }
    let mut session = vec![];
    let mut sections: Vec<Lines<'_>> = vec![];
    for line in lines {
        if line.as_bytes().get(1) != Some(&b'=') || line.chars().any(char::is_control) {
            return Err(format!("this is not SDP: line {:?}", line.chars().take(80).collect::<String>()));
        }
        if line.starts_with("m=") {
            sections.push(vec![line]);
        } else if let Some(section) = sections.last_mut() {
            section.push(line);
        } else {
            session.push(line);
        }
    }
    Ok((session, sections))
}

/// Values of `a=name:value`.
fn attributes<'a>(lines: &'a [&'a str], name: &'a str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

fn has_flag(lines: &[&str], name: &str) -> bool {
    lines.iter().any(|line| line.strip_prefix("a=").is_some_and(|flag| flag.trim() == name))
}

/// (sends, receives), if the lines say so.
fn direction(lines: &[&str]) -> Option<(bool, bool)> {
    lines.iter().find_map(|line| match line.trim() {
        "a=sendrecv" => Some((true, true)),
        "a=sendonly" => Some((true, false)),
        "a=recvonly" => Some((false, true)),
        "a=inactive" => Some((false, false)),
        _ => None,
    })
}

fn section(lines: &[&str], bundled: &[&str], default_direction: (bool, bool)) -> Result<Section, String> {
    let first = lines.first().copied().unwrap_or_default();
    let mut words = first.trim_start_matches("m=").split_ascii_whitespace();
    let (Some(media), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("malformed media section: {first:?}"));
    };
    let port: u16 = port.parse().map_err(|_| format!("malformed port in {first:?}"))?;
    let formats_text: Vec<String> = words.map(str::to_owned).collect();
    if formats_text.is_empty() {
        return Err(format!("no format in {first:?}"));
    }
    let mid = attributes(lines, "mid").next().unwrap_or_default();
    if mid.is_empty() || mid.len() > 64 || !mid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a media section has no identification tag (a=mid)".into());
    }
    let kind = match media {
        "audio" => Some(Kind::Audio),
        "video" => Some(Kind::Video),
        _ => None,
    };
    let (sends, receives) = direction(lines).unwrap_or(default_direction);
    let mut section = Section {
        kind,
        media: media.to_owned(),
        protocol: protocol.to_owned(),
        mid: mid.to_owned(),
        sends,
        receives,
        closed: port == 0 && !bundled.contains(&mid),
        formats: vec![],
        unknown: vec![],
        formats_text,
    };
    if let Some(kind) = kind {
        read_formats(&mut section, lines, kind);
    }
    Ok(section)
}

fn read_formats(section: &mut Section, lines: &[&str], kind: Kind) {
    for text in &section.formats_text {
        // RFC 5761 §4: 64 to 95 would look like RTCP.
        let Some(payload_type) = text.parse::<u8>().ok().filter(|pt| *pt < 128 && !(64..96).contains(pt)) else {
            continue;
        };
        let value = |name| {
            attributes(lines, name).find_map(|value| {
                let (pt, rest) = value.split_once(' ')?;
                (pt == text.as_str()).then(|| rest.trim())
            })
        };
        // RFC 3551 §6: these payload types mean the same without a=rtpmap.
        let rtpmap = value("rtpmap").or(match payload_type {
            0 => Some("PCMU/8000"),
            8 => Some("PCMA/8000"),
            9 => Some("G722/8000"),
            _ => None,
        });
        let Some(rtpmap) = rtpmap else { continue };
        let mut parts = rtpmap.split('/');
        let name = parts.next().unwrap_or_default();
        let clock_rate = parts.next().and_then(|rate| rate.parse().ok()).unwrap_or(0);
        let channels = parts.next().map_or(Some(1), |channels| channels.parse().ok()).unwrap_or(0);
        let codec = Codec::from_rtpmap(name, clock_rate, channels).filter(|codec| codec.kind() == kind);
        let Some(codec) = codec else {
            let helper = ["rtx", "red", "ulpfec", "flexfec-03", "telephone-event", "CN"];
            if !helper.iter().any(|helper| helper.eq_ignore_ascii_case(name)) {
                section.unknown.push(name.chars().take(32).collect());
            }
            continue;
        };
        let feedback = attributes(lines, "rtcp-fb").filter_map(|value| {
            let (pt, rest) = value.split_once(' ')?;
            (pt == text.as_str() || pt == "*").then(|| rest.trim().to_owned())
        });
        section.formats.push(Format {
            payload_type,
            codec,
            fmtp: value("fmtp").unwrap_or_default().to_owned(),
            feedback: feedback.collect(),
        });
    }
}

/// ICE and DTLS of the bundle: from the session part, or from the first section that has them.
fn transport(session: &[&str], sections: &[Lines<'_>], parsed: &[Section]) -> Result<RemoteDescription, String> {
    let open = sections.iter().zip(parsed).filter(|(_, section)| !section.closed).map(|(lines, _)| &lines[..]);
    let parts: Vec<&[&str]> = open.chain([session]).collect();
    let first = |name| parts.iter().find_map(|lines| attributes(lines, name).next());
    let (Some(ufrag), Some(pwd)) = (first("ice-ufrag"), first("ice-pwd")) else {
        return Err("the offer has no ICE credentials (a=ice-ufrag, a=ice-pwd)".into());
    };
    check_credentials(ufrag, pwd)?;
    let mut fingerprints = parts.iter().flat_map(|lines| attributes(lines, "fingerprint")).peekable();
    if fingerprints.peek().is_none() {
        return Err("the offer has no DTLS certificate fingerprint (a=fingerprint)".into());
    }
    let fingerprint = fingerprints
        .find_map(|value| {
            let (hash, hex) = value.split_once(' ')?;
            hash.eq_ignore_ascii_case("sha-256").then(|| hex.trim().to_ascii_uppercase())
        })
        .ok_or("the offer has no SHA-256 fingerprint (a=fingerprint:sha-256)")?;
    let octets = fingerprint.split(':');
    let is_octet = |octet: &str| octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit());
    if octets.clone().count() != 32 || !octets.clone().all(is_octet) {
        return Err("malformed a=fingerprint:sha-256".into());
    }
    let setup = match first("setup") {
        Some("active") => Setup::Active,
        Some("passive") => Setup::Passive,
        Some("actpass") | None => Setup::ActPass,
        Some(_) => return Err("a=setup is none of actpass, active and passive".into()),
    };
    if has_flag(session, "ice-lite") {
        return Err("the offerer is ICE-lite and so are we: nobody would check the path".into());
    }
    Ok(RemoteDescription { ufrag: ufrag.to_owned(), pwd: pwd.to_owned(), fingerprint, setup })
}

/// Lengths of RFC 8839 §5.4; the characters are taken more liberally than there, as peers do.
pub(super) fn check_credentials(ufrag: &str, pwd: &str) -> Result<(), String> {
    let ice_chars = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&pwd.len()) || !ice_chars(ufrag) || !ice_chars(pwd) {
        return Err("malformed ICE credentials (a=ice-ufrag, a=ice-pwd)".into());
    }
    Ok(())
}
