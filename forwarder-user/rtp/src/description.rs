//! What a source says that it sends: SDP (RFC 8866), as RTSP servers write it.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sdp_types::{Media, Session};

use penstock_media::{
    Kind,
    codec::{Codec, Format},
};

/// One track that we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// As viewers see it: our packetisation.
    pub format: Format,
    /// Payload type of the source.
    pub payload_type: u8,
    /// Value of `a=control`; empty if there is none.
    pub control: String,
    /// Parameter sets.
    pub sets: Vec<Vec<u8>>,
    /// Where it is sent to, if it comes by UDP without further agreement.
    pub target: Target,
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

/// Why a description gives no track.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The parser's words.
    #[error("the description is malformed: {0}")]
    Malformed(String),
    /// What there is and why it is left out, separated by semicolons.
    #[error("there is no media that browsers play: {0}")]
    NoMedia(String),
}

impl Description {
    /// Reads SDP.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn parse(text: &[u8]) -> Result<Self, DescriptionError> {
        let session = Session::parse(text).map_err(|error| DescriptionError::Malformed(error.to_string()))?;
        let control = session.get_first_attribute_value("control").flatten().unwrap_or_default().to_owned();
        let (mut tracks, mut left_out, mut left_out_controls) = (Vec::<Track>::new(), vec![], vec![]);
        for media in &session.medias {
            let described = track(media).map(|track| Track { target: target(&session, media), ..track });
            let taken = tracks.len();
            match described {
                Ok(track) if tracks.iter().any(|other| kind(other) == kind(&track)) => {
                    left_out.push(format!("{}: another {} track comes first", track.format.codec.name(), media.media));
                }
                Ok(track) => tracks.push(track),
                Err(why) => left_out.push(why),
            }
            if tracks.len() == taken {
                left_out_controls.push(control_of(media));
            }
        }
        if tracks.is_empty() {
            let none = "it describes none at all".to_owned();
            return Err(DescriptionError::NoMedia(if left_out.is_empty() { none } else { left_out.join("; ") }));
        }
        Ok(Self { tracks, control, left_out, left_out_controls })
    }
}

fn kind(track: &Track) -> Kind {
    track.format.codec.kind()
}

/// `Err`: why it is left out.
fn track(media: &Media) -> Result<Track, String> {
    let what = media.media.as_str();
    if !matches!(what, "audio" | "video") {
        return Err(format!("{what}: neither audio nor video"));
    }
    if !media.proto.starts_with("RTP/AVP") {
        return Err(format!("{what}: by {}, not RTP", media.proto));
    }
    let first = media.fmt.split_ascii_whitespace().next().unwrap_or_default();
    let payload_type: u8 = first.parse().ok().filter(|pt| *pt < 128).ok_or(format!("{what}: no payload type"))?;
    let value = |name| {
        media.get_attribute_values(name).flatten().find_map(|value| {
            let (pt, rest) = value.split_once(' ')?;
            (pt == first).then(|| rest.trim())
        })
    };
    // RFC 3551 §6: static payload types.
    let rtpmap = value("rtpmap").or(match payload_type {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        9 => Some("G722/8000"),
        _ => None,
    });
    let rtpmap = rtpmap.ok_or_else(|| format!("{what}: payload type {payload_type} is not described"))?;
    let mut parts = rtpmap.split('/');
    let name = parts.next().unwrap_or_default();
    let clock_rate = parts.next().and_then(|rate| rate.trim().parse().ok()).unwrap_or(0);
    let channels = parts.next().map_or(Some(1), |channels| channels.trim().parse().ok()).unwrap_or(0);
    let codec = Codec::from_rtpmap(name, clock_rate, channels).ok_or_else(|| {
        let name: String = name.chars().filter(|c| !c.is_control()).take(32).collect();
        format!("{what} {name}: browsers do not play it")
    })?;
    let fmtp = value("fmtp").unwrap_or_default();
    if parameter(fmtp, "sprop-max-don-diff").is_some_and(|diff| diff != "0") {
        return Err(format!("{what} {}: sent in another order than that of decoding", codec.name()));
    }
    let sets = parameter_sets(codec, fmtp);
    let fmtp = fmtp_for_viewers(codec, fmtp, &sets);
    let format = Format { payload_type, codec, fmtp, feedback: vec![], rtx: None };
    Ok(Track { format, payload_type, control: control_of(media), sets, target: Target::default() })
}

fn control_of(media: &Media) -> String {
    media.get_first_attribute_value("control").flatten().unwrap_or_default().to_owned()
}

fn target(session: &Session, media: &Media) -> Target {
    let connection = media.connections.first().or(session.connection.as_ref());
    // A multicast address has its TTL behind a slash (RFC 8866 §5.7).
    let address = connection.and_then(|connection| connection.connection_address.split('/').next()?.parse().ok());
    let named = media.get_first_attribute_value("rtcp").flatten();
    let named = named.and_then(|value| value.split(' ').next()?.parse().ok());
    let muxed = media.get_first_attribute_value("rtcp-mux").is_some();
    let next = media.port.saturating_add(1);
    Target { address, port: media.port, rtcp_port: if muxed { media.port } else { named.unwrap_or(next) } }
}

fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Parameter sets of `a=fmtp`. What is not Base64 is as if it were not there: many streams have them
/// in-band as well.
fn parameter_sets(codec: Codec, fmtp: &str) -> Vec<Vec<u8>> {
    let names: &[&str] = match codec {
        Codec::H264 => &["sprop-parameter-sets"],
        Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
        _ => &[],
    };
    let values = names.iter().filter_map(|name| parameter(fmtp, name)).flat_map(|value| value.split(','));
    values.filter_map(|set| STANDARD.decode(set.trim()).ok()).filter(|set| !set.is_empty()).collect()
}

/// What selects the bit stream, by what we send: fragments are ours, the profile is the source's.
fn fmtp_for_viewers(codec: Codec, fmtp: &str, sets: &[Vec<u8>]) -> String {
    match codec {
        Codec::H264 => {
            let told = parameter(fmtp, "profile-level-id").map(str::to_ascii_lowercase);
            let profile = sets.iter().find_map(|set| crate::profile_level_id(set)).or(told);
            let profile = profile.unwrap_or_else(|| "42e01f".into());
            format!("packetization-mode=1;profile-level-id={profile}")
        }
        Codec::H265 => parameter(fmtp, "profile-id").map(|id| format!("profile-id={id}")).unwrap_or_default(),
        Codec::Vp9 => parameter(fmtp, "profile-id").map(|id| format!("profile-id={id}")).unwrap_or_default(),
        Codec::Av1 => parameter(fmtp, "profile").map(|id| format!("profile={id}")).unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=Camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n";

    fn parse(media: &str) -> Result<Description, DescriptionError> {
        Description::parse(format!("{HEAD}{media}").as_bytes())
    }

    #[test]
    fn video_and_what_is_left_out() {
        let description = parse(
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=1\r\n\
             a=fmtp:96 packetization-mode=0; sprop-parameter-sets=Z2QAH6w=,aO48sA==; profile-level-id=640028\r\n\
             m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/2\r\na=control:trackID=2\r\n\
             m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n",
        );
        let description = description.unwrap();
        assert_eq!(description.control, "*");
        let [video] = &description.tracks[..] else { panic!("{description:?}") };
        assert_eq!((video.payload_type, video.control.as_str()), (96, "trackID=1"));
        assert_eq!(video.format.fmtp, "packetization-mode=1;profile-level-id=64001f", "the SPS knows best");
        assert_eq!(video.sets.len(), 2);
        assert_eq!(description.left_out.len(), 2);
        assert!(description.left_out[0].contains("MPEG4-GENERIC"));
    }

    #[test]
    fn static_payload_types_and_h265() {
        let description = parse(
            "m=video 0 RTP/AVP 98\r\na=rtpmap:98 H265/90000\r\na=fmtp:98 sprop-vps=QAEM;sprop-sps=QgEB;sprop-pps=RAHB\r\n\
             m=audio 0 RTP/AVP 8\r\nm=audio 0 RTP/AVP 0\r\n",
        );
        let description = description.unwrap();
        assert_eq!(description.tracks[0].sets.len(), 3);
        assert_eq!(description.tracks[1].format.codec, Codec::Pcma);
        assert!(description.left_out[0].contains("PCMU"), "{:?}", description.left_out);
    }

    #[test]
    fn targets_are_those_of_the_media_or_of_the_whole() {
        let description = parse(
            "m=video 5004 RTP/AVP 96\r\nc=IN IP4 239.1.2.3/16\r\na=rtpmap:96 VP8/90000\r\n\
             m=audio 5006 RTP/AVP 0\r\na=rtcp:6000 IN IP4 192.0.2.9\r\n",
        );
        let targets: Vec<Target> = description.unwrap().tracks.iter().map(|track| track.target).collect();
        let target = |address: &str, port, rtcp_port| Target { address: address.parse().ok(), port, rtcp_port };
        assert_eq!(targets, [target("239.1.2.3", 5004, 5005), target("0.0.0.0", 5006, 6000)]);
        let muxed = parse("m=audio 5006 RTP/AVP 0\r\na=rtcp-mux\r\n").unwrap();
        assert_eq!(muxed.tracks[0].target.rtcp_port, 5006);
    }

    #[test]
    fn nonsense_is_named() {
        assert!(matches!(Description::parse(b"hello"), Err(DescriptionError::Malformed(_))));
        assert!(matches!(Description::parse(&[0xff; 64]), Err(DescriptionError::Malformed(_))));
        assert!(matches!(parse(""), Err(DescriptionError::NoMedia(_))));
        for media in [
            "m=video 0 RTP/AVP 96\r\n",
            "m=video 0 RTP/AVP 300\r\n",
            "m=video 0 TCP/X 96\r\na=rtpmap:96 H264/90000\r\n",
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 JPEG/90000\r\n",
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\na=fmtp:96 sprop-max-don-diff=2\r\n",
        ] {
            assert!(matches!(parse(media), Err(DescriptionError::NoMedia(_))), "{media}");
        }
    }
}
