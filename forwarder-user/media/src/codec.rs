//! Codecs that we carry, and when two descriptions of one mean the same bit stream.

use std::fmt;

use crate::Kind;

/// A codec whose RTP payload we forward. We never look into the payload. In the configuration it has its encoding
/// name, in capital or small letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Codec {
    /// RFC 7741.
    #[serde(rename = "VP8", alias = "vp8")]
    Vp8,
    /// RFC 9628.
    #[serde(rename = "VP9", alias = "vp9")]
    Vp9,
    /// RFC 6184.
    #[serde(rename = "H264", alias = "h264")]
    H264,
    /// RFC 7798.
    #[serde(rename = "H265", alias = "h265")]
    H265,
    /// By the payload format of the Alliance for Open Media.
    #[serde(rename = "AV1", alias = "av1")]
    Av1,
    /// RFC 7587; always 48 kHz and two channels in SDP, which some forget to write.
    #[serde(rename = "opus", alias = "OPUS", alias = "Opus")]
    Opus,
    /// G.711 µ-law, static payload type 0 (RFC 3551 §4.5.14).
    #[serde(rename = "PCMU", alias = "pcmu")]
    Pcmu,
    /// G.711 A-law, static payload type 8 (RFC 3551 §4.5.14).
    #[serde(rename = "PCMA", alias = "pcma")]
    Pcma,
    /// Static payload type 9 (RFC 3551 §4.5.2).
    #[serde(rename = "G722", alias = "g722")]
    G722,
}

impl Codec {
    /// By the encoding name, clock rate and channels of `a=rtpmap` (names: RFC 4855, any case). Opus without its
    /// second channel is Opus: what is in the packets says how many there are (RFC 7587 §4.1).
    pub fn from_rtpmap(name: &str, clock_rate: u32, channels: u8) -> Option<Self> {
        const CODECS: [Codec; 9] = [
            Codec::Vp8,
            Codec::Vp9,
            Codec::H264,
            Codec::H265,
            Codec::Av1,
            Codec::Opus,
            Codec::Pcmu,
            Codec::Pcma,
            Codec::G722,
        ];
        CODECS.into_iter().find(|codec| {
            codec.name().eq_ignore_ascii_case(name)
                && codec.clock_rate() == clock_rate
                && (channels == 1 || channels == 2 && *codec == Codec::Opus)
        })
    }

    /// Encoding name.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::H264 => "H264",
            Codec::H265 => "H265",
            Codec::Av1 => "AV1",
            Codec::Opus => "opus",
            Codec::Pcmu => "PCMU",
            Codec::Pcma => "PCMA",
            Codec::G722 => "G722",
        }
    }

    /// Audio or video.
    pub const fn kind(self) -> Kind {
        match self {
            Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => Kind::Audio,
            _ => Kind::Video,
        }
    }

    /// RTP clock, Hz.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            // RFC 3551 §4.5.2: G.722 samples at 16 kHz, and its clock runs at 8 kHz all the same.
            Codec::Pcmu | Codec::Pcma | Codec::G722 => 8_000,
            _ => 90_000,
        }
    }
}

/// One payload type of a media section: `a=rtpmap`, `a=fmtp` and `a=rtcp-fb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// 7 bits; means this codec in its own media section only.
    pub payload_type: u8,
    /// What `a=rtpmap` says, or RFC 3551 §6 where there is none.
    pub codec: Codec,
    /// Value of `a=fmtp` as it came, without the payload type; empty if there is none.
    pub fmtp: String,
    /// Values of `a=rtcp-fb`.
    pub feedback: Vec<String>,
    /// Payload type of its retransmissions (RFC 4588 §8.1), if the peer has offered one.
    pub rtx: Option<u8>,
}

impl Format {
    /// Do both mean the same bit stream: the same codec, and the same of whatever `a=fmtp` parameter selects another
    /// one? Levels may differ.
    pub fn matches(&self, other: &Format) -> bool {
        self.codec == other.codec
            && match self.codec {
                Codec::H264 => {
                    self.packetization_mode() == other.packetization_mode()
                        && self.h264_profile() == other.h264_profile()
                }
                // RFC 7798 §7.1: the default profile is Main, the default tier is Main.
                Codec::H265 => {
                    self.number("profile-id", 1) == other.number("profile-id", 1)
                        && self.number("tier-flag", 0) == other.number("tier-flag", 0)
                }
                // RFC 9628 §6 and the AV1 RTP specification §7.2.
                Codec::Vp9 => self.number("profile-id", 0) == other.number("profile-id", 0),
                Codec::Av1 => {
                    self.number("profile", 0) == other.number("profile", 0)
                        && self.number("tier", 0) == other.number("tier", 0)
                }
                Codec::Vp8 | Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => true,
            }
    }

    /// Can a receiver that described itself as `self` decode what a sender described as `sent`? The receiver's words
    /// say what it must get; the sender's are a label, and a decoder goes by what stands in the stream. Levels and tiers
    /// are bounds of size and bit rate that everybody exceeds: they refuse nobody.
    pub fn decodes(&self, sent: &Format) -> bool {
        self.codec == sent.codec
            && match self.codec {
                Codec::H264 => {
                    self.unpacks(sent) && (sent.is_usual_h264() || self.h264_profile() == sent.h264_profile())
                }
                Codec::H265 => self.decodes_h265(sent),
                // 8 bits, 4:2:0 is what decoders of the other profiles begin with.
                Codec::Vp9 => {
                    matches!(sent.number("profile-id", 0), profile if profile == 0 || profile == self.number("profile-id", 0))
                }
                // AV1 specification, annex A.2: each profile's decoders decode those below.
                Codec::Av1 => sent.number("profile", 0) <= self.number("profile", 0),
                Codec::Vp8 | Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => true,
            }
    }

    /// Would a browser that described itself as `self` play what a camera described as `sent`? Its H.264
    /// and H.265 decoders take whatever the parameter sets in the stream say, whichever profile was
    /// offered: cameras name profiles that no browser offers.
    pub fn plays(&self, sent: &Format) -> bool {
        self.decodes(sent)
            || self.codec == sent.codec
                && match self.codec {
                    Codec::H264 => self.unpacks(sent),
                    Codec::H265 => true,
                    _ => false,
                }
    }

    /// Is it what every browser decodes (RFC 7742 §5, RFC 7874 §3)? Of H.264 that is Constrained Baseline, of any level, in
    /// packetization mode 1.
    pub fn is_universal(&self) -> bool {
        match self.codec {
            Codec::Vp8 | Codec::Opus | Codec::Pcmu | Codec::Pcma => true,
            Codec::H264 => self.packetization_mode() == 1 && self.h264_profile() == H264Profile::ConstrainedBaseline,
            Codec::Vp9 | Codec::H265 | Codec::Av1 | Codec::G722 => false,
        }
    }

    /// RFC 6184 §6: mode 1 has all of mode 0; the packets of mode 2 are others.
    fn unpacks(&self, sent: &Format) -> bool {
        let (own, sent) = (self.packetization_mode(), sent.packetization_mode());
        own == sent || (own, sent) == (1, 0)
    }

    /// RFC 6184 §8.1: single NAL unit mode if the parameter is missing.
    fn packetization_mode(&self) -> u32 {
        self.number("packetization-mode", 0)
    }

    /// Baseline, Main and High in 8 bits, 4:2:0: one decoder for all of them, whichever of them it was offered by.
    fn is_usual_h264(&self) -> bool {
        !matches!(self.h264_profile(), H264Profile::Other(profile) if !matches!(profile >> 8, 0x42 | 0x4d | 0x64))
    }

    /// RFC 7798 §7.1 and H.265 annex A.3: decoders of Main 10 decode Main, both decode Main Still Picture; and the stream
    /// may say itself whose decoders it is for (`profile-compatibility-indicator`, a bit for each, the first the highest).
    fn decodes_h265(&self, sent: &Format) -> bool {
        const MAIN: u32 = 1;
        const MAIN_10: u32 = 2;
        const STILL: u32 = 3;
        let (own, profile) = (self.number("profile-id", MAIN), sent.number("profile-id", MAIN));
        let compatible = sent.parameter("profile-compatibility-indicator");
        let compatible = compatible.and_then(|bits| u32::from_str_radix(bits, 16).ok()).unwrap_or(0);
        own == profile
            || (profile == MAIN && own == MAIN_10)
            || (profile == STILL && matches!(own, MAIN | MAIN_10))
            || (own < 32 && compatible & (0x8000_0000 >> own) != 0)
    }

    /// Did the peer offer this kind of feedback?
    pub fn offers(&self, feedback: &str) -> bool {
        self.feedback.iter().any(|offered| offered == feedback)
    }

    /// The `a=fmtp` parameters that an answer repeats: not those that describe the offerer's own stream.
    pub fn fmtp_for_answer(&self) -> String {
        let kept = self.fmtp.split(';').map(str::trim).filter(|pair| !pair.is_empty() && !pair.starts_with("sprop-"));
        kept.collect::<Vec<_>>().join(";")
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
        })
    }

    fn number(&self, name: &str, default: u32) -> u32 {
        self.parameter(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    fn h264_profile(&self) -> H264Profile {
        // RFC 6184 §8.1: Baseline at level 1 if the parameter is missing; what is not six digits says nothing.
        let id = self.parameter("profile-level-id").filter(|id| id.len() == 6);
        let id = id.and_then(|id| u32::from_str_radix(id, 16).ok()).unwrap_or(0x42_0010);
        H264Profile::from_id(id)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.codec.name())?;
        match (self.codec, self.parameter("profile-level-id"), self.parameter("profile-id")) {
            (Codec::H264, Some(id), _) => {
                write!(f, " (profile-level-id {id}, packetization-mode {})", self.packetization_mode())
            }
            (Codec::Vp9 | Codec::H265, _, Some(id)) => write!(f, " (profile-id {id})"),
            _ => Ok(()),
        }
    }
}

/// Profile of RFC 6184 table 5: several values of `profile_idc` and `profile-iop` name the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum H264Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    ConstrainedHigh,
    /// `profile_idc` and `profile-iop` themselves.
    Other(u16),
}

impl H264Profile {
    fn from_id(profile_level_id: u32) -> Self {
        let [_, idc, iop, _level] = profile_level_id.to_be_bytes();
        match idc {
            0x42 if iop & 0x4f == 0x40 => Self::ConstrainedBaseline,
            0x4d if iop & 0x8f == 0x80 => Self::ConstrainedBaseline,
            0x58 if iop & 0xcf == 0xc0 => Self::ConstrainedBaseline,
            0x42 if iop & 0x4f == 0x00 => Self::Baseline,
            0x58 if iop & 0xcf == 0x80 => Self::Baseline,
            0x4d if iop & 0xaf == 0x00 => Self::Main,
            0x64 if iop == 0x0c => Self::ConstrainedHigh,
            _ => Self::Other(u16::from_be_bytes([idc, iop])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(codec: Codec, fmtp: &str) -> Format {
        Format { payload_type: 96, codec, fmtp: fmtp.into(), feedback: vec![], rtx: None }
    }

    #[test]
    fn h264_is_the_same_with_the_same_profile_and_packetization_mode() {
        let sent = format(Codec::H264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f");
        let cases = [
            ("packetization-mode=1;profile-level-id=42e028", true),
            ("packetization-mode=1;profile-level-id=42c015", true),
            ("profile-level-id=42C01F; packetization-mode=1", true),
            ("packetization-mode=0;profile-level-id=42e01f", false),
            ("profile-level-id=42e01f", false),
            ("packetization-mode=1;profile-level-id=42001f", false),
            ("packetization-mode=1;profile-level-id=64001f", false),
            ("packetization-mode=1;profile-level-id=zz", false),
        ];
        for (fmtp, same) in cases {
            assert_eq!(format(Codec::H264, fmtp).matches(&sent), same, "{fmtp}");
        }
    }

    #[test]
    fn other_codecs_compare_what_selects_the_bit_stream() {
        assert!(format(Codec::Vp9, "").matches(&format(Codec::Vp9, "profile-id=0")));
        assert!(!format(Codec::Vp9, "profile-id=2").matches(&format(Codec::Vp9, "profile-id=0")));
        assert!(format(Codec::Av1, "level-idx=5;profile=0;tier=0").matches(&format(Codec::Av1, "level-idx=8")));
        assert!(!format(Codec::Av1, "profile=1").matches(&format(Codec::Av1, "")));
        assert!(format(Codec::H265, "level-id=93;profile-id=1").matches(&format(Codec::H265, "level-id=180")));
        assert!(!format(Codec::H265, "profile-id=2").matches(&format(Codec::H265, "profile-id=1")));
        assert!(format(Codec::Opus, "minptime=10").matches(&format(Codec::Opus, "stereo=1")));
        assert!(!format(Codec::Vp8, "").matches(&format(Codec::Vp9, "")));
    }

    /// Receivers decide: a label refuses nobody who can decode what is behind it.
    #[test]
    fn h264_receivers_go_by_what_they_can() {
        let decodes = |own: &str, sent: &str| format(Codec::H264, own).decodes(&format(Codec::H264, sent));
        let chrome = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
        for sent in [
            "packetization-mode=1;profile-level-id=640c1f",
            "packetization-mode=1;profile-level-id=640034",
            "packetization-mode=1;profile-level-id=4D0028",
            "packetization-mode=1;profile-level-id=42001F;level-asymmetry-allowed=0",
            "packetization-mode=1",
            "profile-level-id=42e01f",
            "packetization-mode=0;profile-level-id=640028",
            "packetization-mode=1;profile-level-id=banana",
            "packetization-mode=1;profile-level-id=42e0",
            "packetization-mode=1;profile-level-id=\"64001f\"",
            "",
        ] {
            assert!(decodes(chrome, sent), "{sent}");
        }
        let other = "packetization-mode=1;profile-level-id=";
        for sent in ["6e0028", "7a0028", "f40028", "580028"] {
            assert!(!decodes(chrome, &format!("{other}{sent}")), "{sent}: 10 bits, 4:2:2, 4:4:4 or Extended");
            assert!(decodes(&format!("{other}{sent}"), &format!("{other}{sent}")));
        }
        // Single NAL units are all that mode 0 takes, and interleaved ones are for mode 2.
        assert!(!decodes("profile-level-id=42e01f", chrome) && !decodes("", chrome));
        assert!(!decodes(chrome, "packetization-mode=2;profile-level-id=42e01f"));
        assert!(decodes("packetization-mode=2", "packetization-mode=2;profile-level-id=42e01f"));
        // Constrained Baseline has several names.
        for id in ["42e01f", "42c01f", "42E034", "4d8028", "58c01f", "42401f"] {
            assert!(format(Codec::H264, &format!("{other}{id}")).is_universal(), "{id}");
        }
        for fmtp in ["profile-level-id=42e01f", "packetization-mode=1;profile-level-id=640c1f", "packetization-mode=1"]
        {
            assert!(!format(Codec::H264, fmtp).is_universal(), "{fmtp}");
        }
    }

    #[test]
    fn other_receivers_go_by_what_they_can() {
        let decodes = |codec, own: &str, sent: &str| format(codec, own).decodes(&format(codec, sent));
        for (own, sent, right) in [
            ("profile-id=1;level-id=93", "profile-id=1;level-id=180;tier-flag=1", true),
            ("profile-id=2", "profile-id=1", true),
            ("", "profile-id=3", true),
            ("profile-id=1", "profile-id=2", false),
            ("profile-id=1", "profile-id=2;profile-compatibility-indicator=60000000", true),
            ("profile-id=1", "profile-id=4;profile-compatibility-indicator=08000000", false),
        ] {
            assert_eq!(decodes(Codec::H265, own, sent), right, "{own:?} {sent:?}");
        }
        assert!(decodes(Codec::Vp9, "profile-id=2", "") && decodes(Codec::Vp9, "profile-id=2", "profile-id=2"));
        assert!(!decodes(Codec::Vp9, "", "profile-id=2") && !decodes(Codec::Vp9, "profile-id=2", "profile-id=1"));
        assert!(decodes(Codec::Av1, "profile=1", "profile=0;tier=1") && !decodes(Codec::Av1, "", "profile=1"));
    }

    #[test]
    fn names_need_their_clock_and_channels() {
        assert_eq!(Codec::from_rtpmap("OPUS", 48_000, 2), Some(Codec::Opus));
        assert_eq!(Codec::from_rtpmap("opus", 48_000, 1), Some(Codec::Opus));
        assert_eq!(Codec::from_rtpmap("opus", 48_000, 6), None);
        assert_eq!(Codec::from_rtpmap("VP8", 90_000, 2), None);
        assert_eq!(Codec::from_rtpmap("vp8", 90_000, 1), Some(Codec::Vp8));
        assert_eq!(Codec::from_rtpmap("PCMU", 16_000, 1), None);
        assert_eq!(Codec::from_rtpmap("rtx", 90_000, 1), None);
    }
}
