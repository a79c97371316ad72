//! What a player is told of a stream (RFC 2326 §8.2 and appendix C.1, RFC 8866).

use std::fmt::Write as _;

use penstock_media::{
    Kind,
    codec::{Codec, Format},
};

/// First of the payload types that have no fixed meaning (RFC 3551 §6).
const FIRST_DYNAMIC: u8 = 96;
/// What a track's `a=control` begins with; its number follows.
const CONTROL: &str = "trackID=";

/// The payload type that a stream's track is played under: the fixed one where there is one, since some recorders look
/// at nothing else.
pub(super) fn payload_type(track: usize, format: &Format) -> u8 {
    match format.codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::G722 => 9,
        _ => FIRST_DYNAMIC + u8::try_from(track).unwrap_or_default() % 32,
    }
}

/// The description. Parameter sets are in the stream: whoever joins gets them with the next keyframe.
pub(super) fn describe(name: &str, formats: &[Format]) -> String {
    let mut text = String::from("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n");
    let _ = write!(text, "s={name}\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\na=range:npt=now-\r\n");
    for (track, format) in formats.iter().enumerate() {
        let kind = match format.codec.kind() {
            Kind::Audio => "audio",
            Kind::Video => "video",
        };
        let (number, codec) = (payload_type(track, format), format.codec);
        let channels = if codec == Codec::Opus { "/2" } else { "" };
        let _ = write!(text, "m={kind} 0 RTP/AVP {number}\r\n");
        let _ = write!(text, "a=rtpmap:{number} {}/{}{channels}\r\n", codec.name(), codec.clock_rate());
        let fmtp = fmtp(format);
        if !fmtp.is_empty() {
            let _ = write!(text, "a=fmtp:{number} {fmtp}\r\n");
        }
        let _ = write!(text, "a=control:{CONTROL}{track}\r\n");
    }
    text
}

/// What a receiver needs of the parameters, and nothing that WebRTC's peers tell each other.
fn fmtp(format: &Format) -> String {
    let told = |names: &[&str]| {
        let pairs = format.fmtp.split(';').map(str::trim).filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
        });
        pairs.map(str::to_owned).collect::<Vec<_>>()
    };
    match format.codec {
        Codec::H264 => {
            let mut pairs = told(&["profile-level-id", "sprop-parameter-sets"]);
            // What we send is this mode's, whatever came (RFC 6184 §6.2); receivers of mode 0 do not exist.
            pairs.insert(0, "packetization-mode=1".into());
            pairs.join(";")
        }
        Codec::H265 => told(&["profile-id", "tier-flag", "level-id"]).join(";"),
        Codec::Opus => told(&["sprop-stereo", "useinbandfec"]).join(";"),
        Codec::Vp9 | Codec::Av1 => told(&["profile-id", "profile", "level-idx", "tier"]).join(";"),
        Codec::Vp8 | Codec::Pcmu | Codec::Pcma | Codec::G722 => String::new(),
    }
}

/// The track that the path of a SETUP means.
pub(super) fn track_of(path: &str, tracks: usize) -> Option<usize> {
    match path.trim_end_matches('/').rsplit_once(CONTROL) {
        Some((_, number)) => number.parse().ok().filter(|number| *number < tracks),
        // Who plays one track need not name it.
        None => (tracks == 1).then_some(0),
    }
}

/// The stream's name in the path of a URL.
pub(super) fn name_of(path: &str) -> &str {
    let path = path.rsplit_once(CONTROL).map_or(path, |(before, _)| before);
    path.trim_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(codec: Codec, fmtp: &str) -> Format {
        Format { payload_type: 102, codec, fmtp: fmtp.into(), feedback: vec![], rtx: None }
    }

    #[test]
    fn a_description_says_what_receivers_need() {
        let formats = [
            format(Codec::H264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
            format(Codec::Opus, "minptime=10;useinbandfec=1"),
            format(Codec::Pcma, ""),
        ];
        let text = describe("door", &formats);
        for line in [
            "m=video 0 RTP/AVP 96",
            "a=rtpmap:96 H264/90000",
            "a=fmtp:96 packetization-mode=1;profile-level-id=42e01f",
            "a=control:trackID=0",
            "a=rtpmap:97 opus/48000/2",
            "m=audio 0 RTP/AVP 8",
        ] {
            assert!(text.contains(&format!("{line}\r\n")), "{line} in {text}");
        }
    }

    #[test]
    fn tracks_and_names_of_paths() {
        assert_eq!(track_of("/site/door/trackID=1", 2), Some(1));
        assert_eq!(track_of("/site/door/trackID=1/", 2), Some(1));
        assert_eq!(track_of("/site/door/trackID=2", 2), None);
        assert_eq!((track_of("/door", 1), track_of("/door", 2)), (Some(0), None));
        assert_eq!((name_of("/site/door/trackID=1"), name_of("/door/")), ("site/door", "door"));
    }
}
