//! Why viewers of a source that plays see nothing, or less than they should: by name, and what to change.

/// See the module. Several may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    NoKeyframe,
    NoParameterSets,
    VideoCodec,
    CodecNotEverywhere,
    BFrames,
    WrongSender,
    OtherSsrc,
    ClockJumps,
    WrongClock,
    VideoSilent,
    AudioSilent,
    TooFast,
    SrtpKey,
    SoundUndecodable,
}

impl Reason {
    /// Every reason once.
    pub(crate) const ALL: [Reason; 14] = [
        Reason::NoKeyframe,
        Reason::NoParameterSets,
        Reason::VideoCodec,
        Reason::CodecNotEverywhere,
        Reason::BFrames,
        Reason::WrongSender,
        Reason::OtherSsrc,
        Reason::ClockJumps,
        Reason::WrongClock,
        Reason::VideoSilent,
        Reason::AudioSilent,
        Reason::TooFast,
        Reason::SrtpKey,
        Reason::SoundUndecodable,
    ];

    /// For programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Reason::NoKeyframe => "no_keyframe",
            Reason::NoParameterSets => "no_parameter_sets",
            Reason::VideoCodec => "video_codec",
            Reason::CodecNotEverywhere => "codec_not_everywhere",
            Reason::BFrames => "b_frames",
            Reason::WrongSender => "wrong_sender",
            Reason::OtherSsrc => "other_ssrc",
            Reason::ClockJumps => "clock_jumps",
            Reason::WrongClock => "wrong_clock",
            Reason::VideoSilent => "video_silent",
            Reason::AudioSilent => "audio_silent",
            Reason::TooFast => "too_fast",
            Reason::SrtpKey => "srtp_key",
            Reason::SoundUndecodable => "sound_undecodable",
        }
    }

    /// For people: what it is, and what to change.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Reason::NoKeyframe => {
                "no keyframe (IDR) comes, and viewers can begin at one only: set the keyframe or I-frame interval to \
                 some seconds, and no \"intra refresh\" or \"smart codec\""
            }
            Reason::NoParameterSets => {
                "it sends no parameter sets (SPS, PPS), neither in its description nor among the video, so nobody can \
                 decode it: let the encoder repeat its headers with each keyframe"
            }
            Reason::VideoCodec => {
                "its video is of a codec that browsers do not play: choose H.264 at the camera, or another of its \
                 streams"
            }
            Reason::CodecNotEverywhere => {
                "it sends H.265, which not every browser plays: choose H.264 at the camera for all of them"
            }
            Reason::BFrames => {
                "it sends B-frames, which browsers show in the wrong order: choose a profile without them (Baseline, \
                 or \"B-frames: 0\")"
            }
            Reason::WrongSender => {
                "packets come from an address that is not the source's, and are dropped: set `sender`, or let the \
                 camera send from the address that it was asked at"
            }
            Reason::OtherSsrc => {
                "two senders use one port, and the one that began last is heard: give each a port of its own"
            }
            Reason::ClockJumps => {
                "its clock is set again and again, which viewers see as jerks: give the camera one time server, or none"
            }
            Reason::WrongClock => {
                "its timestamps do not run as its codec's clock should (90 kHz for video), and are replaced by the \
                 times of arrival: look for a newer firmware"
            }
            Reason::VideoSilent => {
                "video has stopped while sound goes on: the camera's encoder hangs, or its video is switched off"
            }
            Reason::AudioSilent => {
                "sound has stopped while video goes on: the microphone is switched off, or the camera's encoder hangs"
            }
            Reason::TooFast => "it sends more than `limits.source_max_kbps` allows: what is beyond is dropped",
            Reason::SrtpKey => {
                "its packets are not encrypted by the key that it has described: begin anew at its end, and see that \
                 no other sender uses its ports"
            }
            Reason::SoundUndecodable => {
                "its sound is not the AAC (Low Complexity) that it has described, so nobody hears it: choose another \
                 audio codec at the camera (G.711 needs no `audio`)"
            }
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons(u16);

impl Reasons {
    pub(crate) fn insert(&mut self, reason: Reason) {
        self.0 |= 1 << reason as u16;
    }

    pub(crate) fn insert_if(&mut self, reason: Reason, holds: bool) {
        if holds {
            self.insert(reason);
        }
    }

    pub(crate) fn contains(self, reason: Reason) -> bool {
        self.0 & 1 << reason as u16 != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }

    pub(crate) fn join(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_says_what_to_do() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        let mut all = Reasons::default();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "the order is that of `ALL`");
            assert!(reason.text().contains(':') && !all.contains(reason));
            all.insert(reason);
        }
        assert_eq!(all.iter().count(), Reason::ALL.len());
    }
}
