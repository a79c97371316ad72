//! What a source says that it sends: SDP (RFC 8866), as cameras and encoders write it.

mod sound;

use std::net::IpAddr;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use penstock_media::{
    Kind,
    codec::{Codec, Format},
};

pub use sound::Sound;

use crate::{
    aac,
    sdp::{Sdp, Section},
};

/// Base64 whose padding may be missing or in excess, and whose last bits may be anything (retina#68).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Most parameter sets of a track.
const MAX_SETS: usize = 16;

/// One track that we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// As viewers see it: our packetisation.
    pub format: Format,
    /// It comes as AAC, of which `format` is made.
    pub aac: Option<aac::Packing>,
    /// Payload type of the source.
    pub payload_type: u8,
    /// Value of `a=control`; empty if there is none.
    pub control: String,
    /// Parameter sets.
    pub sets: Vec<Vec<u8>>,
    /// Where it is sent to, if it comes by UDP without further agreement.
    pub target: Target,
    /// How it is encrypted, if its protocol is `RTP/SAVP` or `RTP/SAVPF`.
    pub security: Option<Security>,
}

/// What a section says of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// The protocol of `m=`, in capitals.
    pub protocol: String,
    /// Values of `a=crypto` (RFC 4568 §4), of the section.
    pub crypto: Vec<String>,
    /// Values of `a=key-mgmt` (RFC 4567 §3.1), of the section or else of the whole.
    pub key_mgmt: Vec<String>,
}

/// Where a sender that asks nobody sends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `c=`.
    pub address: Option<IpAddr>,
    /// Port of `m=`.
    pub port: u16,
    /// Port of RTCP: the next one, unless it is named. The same: both come by one.
    pub rtcp_port: u16,
}

/// A source's tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// At most one of each kind.
    pub tracks: Vec<Track>,
    /// `a=control` of the whole.
    pub control: String,
    /// What browsers cannot play, or what is one too many, in words.
    pub left_out: Vec<String>,
    /// `a=control` of what is left out.
    pub left_out_controls: Vec<String>,
}

/// Whose description it is: directions (`a=sendonly`) are seen from his side, except those of cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// An RTSP server that answers DESCRIBE. What is `sendonly` is for the client to send (ONVIF streaming
    /// specification §5.3): a loudspeaker.
    Server,
    /// Who sends the media himself.
    Sender,
}

/// Why a description gives no track.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// In words.
    #[error("the description is malformed: {0}")]
    Malformed(String),
    /// What there is and why it is left out, separated by semicolons.
    #[error("there is no media that browsers play: {0}")]
    NoMedia(String),
}

impl Description {
    /// Reads SDP. Broken lines and sections cost themselves only.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn parse(text: &[u8], writer: Writer) -> Result<Self, DescriptionError> {
        Self::read(text, writer, Sound::AsIs)
    }

    /// The same, with AAC as a track where nothing else is heard.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn parse_for(text: &[u8], writer: Writer, sound: Sound) -> Result<Self, DescriptionError> {
        let as_is = Self::read(text, writer, Sound::AsIs);
        let heard = as_is.as_ref().is_ok_and(|description| description.tracks.iter().any(|t| kind(t) == Kind::Audio));
        let broken = matches!(as_is, Err(DescriptionError::Malformed(_)));
        if sound == Sound::AsIs || heard || broken { as_is } else { Self::read(text, writer, sound) }
    }

    fn read(text: &[u8], writer: Writer, sound: Sound) -> Result<Self, DescriptionError> {
        // What we need is ASCII; names in other encodings are not needed.
        let text = String::from_utf8_lossy(text);
        let sdp = Sdp::parse(&text);
        if sdp.lines == 0 {
            return Err(DescriptionError::Malformed("not one of its lines is SDP".into()));
        }
        let control = sdp.session.get("control").unwrap_or_default().to_owned();
        let (mut tracks, mut left_out, mut left_out_controls) = (Vec::<Track>::new(), vec![], vec![]);
        for media in &sdp.media {
            let described = match (direction(&sdp, media), writer) {
                _ if is_backchannel(&sdp, media, writer) => Err(format!("{}: for the client to send", media.kind)),
                (Some("inactive"), _) => Err(format!("{}: inactive", media.kind)),
                (Some("recvonly"), Writer::Sender) if is_mixed(&sdp) => Err(format!("{}: for us to send", media.kind)),
                _ => track(&sdp, media, sound),
            };
            match described {
                Ok(track) if tracks.iter().any(|other| kind(other) == kind(&track)) => {
                    left_out.push(format!("{}: another {} track comes first", track.format.codec.name(), media.kind));
                }
                Ok(track) => {
                    tracks.push(track);
                    continue;
                }
                Err(why) => left_out.push(why),
            }
            left_out_controls.push(media.get("control").unwrap_or_default().to_owned());
        }
        if tracks.is_empty() {
            let none = "it describes none at all".to_owned();
            return Err(DescriptionError::NoMedia(if left_out.is_empty() { none } else { left_out.join("; ") }));
        }
        Ok(Self { tracks, control, left_out, left_out_controls })
    }

    /// Leaves a track out after all.
    pub fn leave_out(&mut self, index: usize, why: &str) {
        if index < self.tracks.len() {
            let track = self.tracks.remove(index);
            self.left_out.push(format!("{}: {why}", track.format.codec.name()));
            self.left_out_controls.push(track.control);
        }
    }
}

fn kind(track: &Track) -> Kind {
    track.format.codec.kind()
}

/// A direction of a section; the last of several counts, as with most readers.
fn direction(sdp: &Sdp<'_>, media: &Section<'_>) -> Option<&'static str> {
    const DIRECTIONS: [&str; 4] = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let of = |section: &Section<'_>| DIRECTIONS.into_iter().find(|direction| section.has(direction));
    of(media).or_else(|| of(&sdp.session).filter(|direction| *direction == "inactive"))
}

/// Audio that a camera wants from its client. One that says `sendonly` of its video too sees it from its own side.
fn is_backchannel(sdp: &Sdp<'_>, media: &Section<'_>, writer: Writer) -> bool {
    writer == Writer::Server
        && media.kind != "video"
        && direction(sdp, media) == Some("sendonly")
        && !sdp.media.iter().any(|other| other.kind == "video" && direction(sdp, other) == Some("sendonly"))
}

/// Whether sections differ in their direction: only then one that is the other way round says something.
fn is_mixed(sdp: &Sdp<'_>) -> bool {
    sdp.media.iter().any(|media| direction(sdp, media) != Some("recvonly"))
}

/// `Err`: why it is left out.
fn track(sdp: &Sdp<'_>, media: &Section<'_>, sound: Sound) -> Result<Track, String> {
    let what = media.kind.as_str();
    if !matches!(what, "audio" | "video") {
        let what: String = what.chars().filter(|letter| !letter.is_control()).take(32).collect();
        return Err(format!("{what}: neither audio nor video"));
    }
    let secure = media.protocol.starts_with("RTP/SAVP");
    if !secure && !media.protocol.starts_with("RTP/AVP") {
        let protocol: String = media.protocol.chars().filter(|letter| !letter.is_control()).take(32).collect();
        return Err(format!("{what}: by {protocol}, not RTP"));
    }
    let key_mgmt: Vec<String> = media.all("key-mgmt").map(str::to_owned).collect();
    let security = secure.then(|| Security {
        protocol: media.protocol.clone(),
        crypto: media.all("crypto").map(str::to_owned).collect(),
        key_mgmt: if key_mgmt.is_empty() { sdp.session.all("key-mgmt").map(str::to_owned).collect() } else { key_mgmt },
    });
    // The first that browsers play; if none is, why the first is not.
    let mut why = None;
    let formats = formats(media);
    for payload_type in formats {
        match format(media, payload_type, sound) {
            Ok((format, sets, aac)) => {
                let control = media.get("control").unwrap_or_default().to_owned();
                return Ok(Track { format, aac, payload_type, control, sets, target: target(sdp, media), security });
            }
            Err(reason) => why = why.or(Some(reason)),
        }
    }
    Err(format!("{what}{}", why.unwrap_or_else(|| ": no payload type".into())))
}

/// The payload types of a section: those of `m=`; where none of them is described, those that are.
fn formats(media: &Section<'_>) -> Vec<u8> {
    let number = |text: &str| text.parse::<u8>().ok().filter(|payload_type| *payload_type < 128);
    let mut named: Vec<u8> = media.formats.iter().filter_map(|format| number(format)).collect();
    let described = media.all("rtpmap").filter_map(|value| number(value.split_ascii_whitespace().next()?));
    if !named.iter().any(|payload_type| rtpmap(media, *payload_type).is_some()) {
        named = described.chain(named).take(128).collect();
    }
    named
}

/// What a section says of a payload type by `a=rtpmap` or `a=fmtp`.
fn value<'a>(media: &Section<'a>, name: &str, payload_type: u8) -> impl Iterator<Item = &'a str> {
    media.all(name).filter_map(move |value| {
        let (number, rest) = value.split_once(|letter: char| letter.is_ascii_whitespace())?;
        (number.parse() == Ok(payload_type)).then(|| rest.trim())
    })
}

/// The encoding, which for static payload types needs no attribute (RFC 3551 §6).
fn rtpmap<'a>(media: &Section<'a>, payload_type: u8) -> Option<&'a str> {
    value(media, "rtpmap", payload_type).find(|value| !value.is_empty()).or(match payload_type {
        0 => Some("PCMU/8000"),
        3 => Some("GSM/8000"),
        4 => Some("G723/8000"),
        8 => Some("PCMA/8000"),
        9 => Some("G722/8000"),
        10 | 11 => Some("L16/44100"),
        14 => Some("MPA/90000"),
        18 => Some("G729/8000"),
        26 => Some("JPEG/90000"),
        32 => Some("MPV/90000"),
        33 => Some("MP2T/90000"),
        34 => Some("H263/90000"),
        _ => None,
    })
}

/// A payload type as viewers see it, its parameter sets, and how it comes if it is AAC.
type Described = (Format, Vec<Vec<u8>>, Option<aac::Packing>);

/// `Err`: why browsers do not play it.
fn format<'a>(media: &Section<'a>, payload_type: u8, sound: Sound) -> Result<Described, String> {
    let rtpmap =
        rtpmap(media, payload_type).ok_or_else(|| format!(": payload type {payload_type} is not described"))?;
    let mut parts = rtpmap.split('/').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let (rate, channels) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let codec = codec(name, rate, channels);
    let mut fmtp = value(media, "fmtp", payload_type).collect::<Vec<_>>().join(";");
    if fmtp.is_empty() && media.formats.len() == 1 {
        // Some forget the payload type, which is clear here, or write another one (mediacommon#144, mediamtx#3590).
        let meant = |value: &'a str| match value.split_once(|letter: char| letter.is_ascii_whitespace()) {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
            _ => value,
        };
        let named = |value: &&str| value.split(';').next().is_some_and(|first| first.contains('='));
        fmtp = media.all("fmtp").map(meant).filter(named).collect::<Vec<_>>().join(";");
    }
    let Some(codec) = codec else {
        return sound::of_aac(payload_type, name, (rate, channels), &fmtp, sound);
    };
    if parameter(&fmtp, "sprop-max-don-diff").is_some_and(|diff| diff != "0") {
        return Err(format!(" {}: sent in another order than that of decoding", codec.name()));
    }
    let sets = parameter_sets(codec, &fmtp);
    let fmtp = fmtp_for_viewers(codec, &fmtp, &sets);
    Ok((Format { payload_type, codec, fmtp, feedback: vec![], rtx: None }, sets, None))
}

/// A codec by its `a=rtpmap`, whose rate and channels some leave out or write oddly where there is one choice only.
fn codec(name: &str, rate: &str, channels: &str) -> Option<Codec> {
    let name = if name.eq_ignore_ascii_case("HEVC") { "H265" } else { name };
    let number = |text: &str| crate::rtsp::number(text).and_then(|number| u32::try_from(number).ok());
    let channels = u8::try_from(number(channels).unwrap_or(0)).unwrap_or(u8::MAX);
    let choices = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1, Codec::Opus];
    let one = choices.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name));
    match (one, number(rate)) {
        // Channels of video are nonsense, and Opus is always described with two (RFC 7587 §7).
        (Some(codec), rate) if rate.is_none_or(|rate| rate == codec.clock_rate()) => Some(codec),
        (Some(_), _) => None,
        (None, rate) => Codec::from_rtpmap(name, rate.unwrap_or(8000), channels.max(1)),
    }
}

fn target(sdp: &Sdp<'_>, media: &Section<'_>) -> Target {
    let address = media.address.or(sdp.session.address);
    let named = media.get("rtcp").and_then(|value| value.split_ascii_whitespace().next()?.parse().ok());
    let next = media.port.saturating_add(1);
    let rtcp_port = if media.has("rtcp-mux") { media.port } else { named.unwrap_or(next) };
    Target { address, port: media.port, rtcp_port }
}

fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    crate::rtsp::parameter(fmtp, name)
}

/// Parameter sets of `a=fmtp`. What is not Base64, or no parameter set, is as if it were not there: many streams have
/// them in-band as well.
fn parameter_sets(codec: Codec, fmtp: &str) -> Vec<Vec<u8>> {
    let names: &[&str] = match codec {
        Codec::H264 => &["sprop-parameter-sets"],
        Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
        _ => &[],
    };
    let values = names.iter().filter_map(|name| parameter(fmtp, name)).flat_map(|value| value.split(','));
    let decoded = values.filter_map(|set| BASE64.decode(set.trim()).ok());
    let sets = decoded.flat_map(|set| without_start_codes(&set)).filter(|set| is_set(codec, set));
    sets.take(MAX_SETS).collect()
}

/// The NAL units of a byte stream (H.264 Annex B); the whole if it has no start code.
fn without_start_codes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<usize> = bytes.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let begins = std::iter::once(0).chain(starts.iter().map(|at| at + 3));
    let ends = starts.iter().copied().chain([bytes.len()]);
    let units = begins.zip(ends).filter_map(|(begin, end)| bytes.get(begin..end));
    // Zeros at the end belong to the next start code.
    let trimmed = units.map(|unit| {
        let len = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        unit[..len].to_vec()
    });
    trimmed.filter(|unit| !unit.is_empty()).collect()
}

/// Whether a NAL unit is a parameter set: some cameras put other things there (retina#42).
fn is_set(codec: Codec, unit: &[u8]) -> bool {
    match codec {
        Codec::H264 => unit.len() > 1 && unit[0] & 0x80 == 0 && matches!(unit[0] & 0x1f, 7 | 8 | 13),
        _ => unit.len() > 2 && unit[0] & 0x80 == 0 && matches!(unit[0] >> 1, 32..=34),
    }
}

/// What selects the bit stream, by what we send: fragments are ours, the profile is the source's.
fn fmtp_for_viewers(codec: Codec, fmtp: &str, sets: &[Vec<u8>]) -> String {
    let number = |name: &str| {
        let value = parameter(fmtp, name).and_then(crate::rtsp::number);
        value.map(|value| format!("{name}={value}")).unwrap_or_default()
    };
    match codec {
        Codec::H264 => {
            let is_hex = |id: &str| id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let told = parameter(fmtp, "profile-level-id").filter(|id| is_hex(id)).map(str::to_ascii_lowercase);
            let profile = sets.iter().find_map(|set| crate::profile_level_id(set)).or(told);
            let profile = profile.unwrap_or_else(|| "42e01f".into());
            format!("packetization-mode=1;profile-level-id={profile}")
        }
        Codec::H265 | Codec::Vp9 => number("profile-id"),
        Codec::Av1 => number("profile"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
