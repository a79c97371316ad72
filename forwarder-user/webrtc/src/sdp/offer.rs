//! What an SDP offer means: media sections, their formats, the transport.

use super::extension::{Extension, Numbers};
use super::fingerprint::Fingerprint;
use super::lines::{self, FEEDBACK, Media, Part};
use super::simulcast::Layers;
use penstock_media::Kind;
use penstock_media::codec::{Codec, Format};

/// Names of formats that we do not carry, kept of one section for messages.
const MAX_UNKNOWN: usize = 16;
/// Protocols of `m=` lines that all mean DTLS-SRTP where there is a fingerprint: offers of others than browsers
/// have each of them (RFC 9429 §5.1.2).
const PROTOCOLS: [&str; 8] = [
    "UDP/TLS/RTP/SAVPF",
    "UDP/TLS/RTP/SAVP",
    "TCP/DTLS/RTP/SAVPF",
    "TCP/DTLS/RTP/SAVP",
    "RTP/SAVPF",
    "RTP/SAVP",
    "RTP/AVPF",
    "RTP/AVP",
];

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
    /// Of its certificates, at least one.
    pub fingerprints: Box<[Fingerprint]>,
    /// Value of `a=setup`; actpass where there is none (RFC 5763 §5).
    pub setup: Setup,
}

/// One media section.
#[derive(Clone, Debug)]
pub struct Section {
    /// `None`: neither audio nor video.
    pub kind: Option<Kind>,
    /// First words of the `m=` line: media, port, protocol, the first format.
    pub media: String,
    /// Usable are those that mean DTLS-SRTP where there is a fingerprint (RFC 9429 §5.1.2).
    pub protocol: String,
    /// Repeated where the section is refused.
    pub first_format: String,
    /// `a=mid`; empty where a lone section has none.
    pub mid: String,
    /// The offerer sends media in it.
    pub sends: bool,
    /// The offerer receives media in it.
    pub receives: bool,
    /// The offerer has closed it: port 0 and not bundled.
    pub closed: bool,
    /// The offerer wants to learn the round trip although it only receives (`a=rtcp-xr:rcvr-rtt`, RFC 3611 §5.1).
    pub receiver_rtt: bool,
    /// Layers that the offerer can send side by side.
    pub layers: Layers,
    /// Numbers of the header extensions that we read.
    pub extensions: Numbers,
    /// Payload types that we could carry, in the offerer's order of preference.
    pub formats: Vec<Format>,
    /// Payload types of Opus that do not speak of its second channel.
    pub lone_channel: Vec<u8>,
    /// Encoding names that we do not know or carry, for messages.
    pub unknown: Vec<String>,
}

impl Section {
    /// Audio or video over DTLS-SRTP.
    pub fn usable(&self) -> bool {
        self.kind.is_some() && !self.closed && PROTOCOLS.contains(&self.protocol.as_str())
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

impl Offer {
    /// Reads an offer, in time and memory that grow with the length of the text and nothing else (`lines`).
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = lines::read(text)?;
        if parts.sections.is_empty() {
            return Err("the offer has no media section (no m= line)".into());
        }
        let (session, lone) = (&parts.session, parts.sections.len() == 1);
        let read = parts.sections.iter().filter_map(|part| Some((part, part.media.as_ref()?)));
        let sections = read.map(|(part, media)| section(part, media, session, lone)).collect::<Result<Vec<_>, _>>()?;
        for (i, one) in sections.iter().enumerate() {
            if sections[..i].iter().any(|other| other.mid == one.mid) {
                return Err(format!("two media sections have the identification tag (a=mid) {}", one.mid));
            }
        }
        let usable = sections.iter().filter(|section| section.usable());
        let bundled = |section: &Section| session.bundle.contains(&section.mid.as_str());
        if usable.clone().count() > 1 && !usable.clone().all(bundled) {
            return Err("the media sections are not all in one BUNDLE group (a=group:BUNDLE)".into());
        }
        let open = parts.sections.iter().zip(&sections).filter(|(_, section)| !section.closed).map(|(part, _)| part);
        let remote = transport(session, open.chain([session]))?;
        Ok(Self { remote, sections })
    }
}

fn section(part: &Part<'_>, media: &Media<'_>, session: &Part<'_>, lone: bool) -> Result<Section, String> {
    let mid = part.mid.unwrap_or_default();
    if (mid.is_empty() && !lone) || mid.len() > 64 || !mid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a media section has no identification tag (a=mid)".into());
    }
    let kind = match media.kind {
        "audio" => Some(Kind::Audio),
        "video" => Some(Kind::Video),
        _ => None,
    };
    let (sends, receives) = part.direction.or(session.direction).unwrap_or((true, true));
    let mut section = Section {
        kind,
        media: media.kind.to_owned(),
        protocol: media.protocol.to_owned(),
        first_format: media.first_format.to_owned(),
        mid: mid.to_owned(),
        sends,
        receives,
        receiver_rtt: part.receiver_rtt,
        layers: Layers::read(part.simulcast.unwrap_or_default(), part.extensions.of(Extension::Layer)),
        extensions: part.extensions,
        closed: media.port == 0 && !session.bundle.contains(&mid),
        formats: vec![],
        lone_channel: vec![],
        unknown: vec![],
    };
    if let Some(kind) = kind {
        media.formats.iter().for_each(|format| read_format(&mut section, media, format, kind));
        read_retransmissions(&mut section, media);
    }
    Ok(section)
}

fn read_format(section: &mut Section, media: &Media<'_>, format: &lines::Format<'_>, kind: Kind) {
    // RFC 5761 §4: 64 to 95 would look like RTCP.
    if (64..96).contains(&format.payload_type) {
        return;
    }
    // RFC 3551 §6: these payload types mean the same without a=rtpmap.
    let rtpmap = format.rtpmap.or(match format.payload_type {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        9 => Some("G722/8000"),
        _ => None,
    });
    let Some(rtpmap) = rtpmap else { return };
    let mut parts = rtpmap.split('/');
    let name = parts.next().unwrap_or_default();
    let clock_rate = parts.next().and_then(|rate| rate.parse().ok()).unwrap_or(0);
    let channels = parts.next().map_or(Some(1), |channels| channels.parse().ok()).unwrap_or(0);
    let codec = Codec::from_rtpmap(name, clock_rate, channels).filter(|codec| codec.kind() == kind);
    let Some(codec) = codec else {
        let helper = ["rtx", "red", "ulpfec", "flexfec-03", "telephone-event", "CN"];
        if section.unknown.len() < MAX_UNKNOWN && !helper.iter().any(|helper| helper.eq_ignore_ascii_case(name)) {
            section.unknown.push(name.chars().take(32).collect());
        }
        return;
    };
    if codec == Codec::Opus && channels == 1 {
        section.lone_channel.push(format.payload_type);
    }
    let offered = format.feedback | media.feedback;
    let feedback = FEEDBACK.iter().enumerate().filter(|(place, _)| offered & (1 << place) != 0);
    section.formats.push(Format {
        payload_type: format.payload_type,
        codec,
        fmtp: format.fmtp.unwrap_or_default().to_owned(),
        feedback: feedback.map(|(_, kind)| (*kind).to_owned()).collect(),
        rtx: None,
    });
}

/// Which payload types carry retransmissions, and of which others (RFC 4588 §8.1).
fn read_retransmissions(section: &mut Section, media: &Media<'_>) {
    // By payload type of the original: what an offer repeats costs no more.
    let mut places = [None; 128];
    for (place, format) in section.formats.iter().enumerate() {
        if let Some(entry) = places.get_mut(usize::from(format.payload_type)) {
            *entry = Some(place);
        }
    }
    // As for formats: RFC 5761 §4.
    for format in media.formats.iter().filter(|format| !(64..96).contains(&format.payload_type)) {
        let name = format.rtpmap.and_then(|rtpmap| rtpmap.split('/').next()).unwrap_or_default();
        if !name.eq_ignore_ascii_case("rtx") {
            continue;
        }
        let apt = format.fmtp.and_then(|fmtp| fmtp.split(';').find_map(|pair| pair.trim().strip_prefix("apt=")));
        let original = apt.and_then(|apt| apt.trim().parse::<usize>().ok()).and_then(|apt| *places.get(apt)?);
        if let Some(original) = original.and_then(|place| section.formats.get_mut(place)) {
            original.rtx.get_or_insert(format.payload_type);
        }
    }
}

/// ICE and DTLS of the bundle: from the first section that has them, or from the session part.
fn transport<'a>(
    session: &Part<'a>,
    parts: impl Iterator<Item = &'a Part<'a>> + Clone,
) -> Result<RemoteDescription, String> {
    let ufrag = parts.clone().find_map(|part| part.ufrag);
    let (Some(ufrag), Some(pwd)) = (ufrag, parts.clone().find_map(|part| part.pwd)) else {
        return Err("the offer has no ICE credentials (a=ice-ufrag, a=ice-pwd)".into());
    };
    check_credentials(ufrag, pwd)?;
    let given = parts.clone().find(|part| !part.fingerprints.is_empty());
    let given = given.ok_or("the offer has no DTLS certificate fingerprint (a=fingerprint)")?;
    let read = given.fingerprints.iter().map(|value| Fingerprint::parse(value)).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|_| "malformed a=fingerprint")?;
    let fingerprints: Box<[Fingerprint]> = read.into_iter().flatten().collect();
    if fingerprints.is_empty() {
        return Err("the offer has no SHA-256, SHA-384 or SHA-512 fingerprint (a=fingerprint:sha-256)".into());
    }
    let setup = match parts.clone().find_map(|part| part.setup) {
        Some("active") => Setup::Active,
        Some("passive") => Setup::Passive,
        Some("actpass") | None => Setup::ActPass,
        Some(_) => return Err("a=setup is none of actpass, active and passive".into()),
    };
    if session.ice_lite {
        return Err("the offerer is ICE-lite and so are we: nobody would check the path".into());
    }
    Ok(RemoteDescription { ufrag: ufrag.to_owned(), pwd: pwd.to_owned(), fingerprints, setup })
}

/// Lengths of RFC 8839 §5.4; the characters are taken more liberally than there, as peers do.
pub(super) fn check_credentials(ufrag: &str, pwd: &str) -> Result<(), String> {
    let ice_chars = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&pwd.len()) || !ice_chars(ufrag) || !ice_chars(pwd) {
        return Err("malformed ICE credentials (a=ice-ufrag, a=ice-pwd)".into());
    }
    Ok(())
}
