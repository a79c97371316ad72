//! Writing an SDP answer.

use std::fmt::Write;
use std::net::SocketAddr;

use super::negotiate::Plan;
use super::offer::{Offer, Section};
use penstock_media::Kind;
use penstock_media::codec::Format;

/// Our transport, as the peer must know it.
#[derive(Clone, Debug)]
pub struct LocalDescription {
    /// Value of `a=ice-ufrag`: by it the first STUN request finds its session (RFC 8839 §5.4).
    pub ufrag: String,
    /// Value of `a=ice-pwd`, key of the peer's connectivity checks (RFC 8839 §5.4).
    pub pwd: String,
    /// Value of `a=fingerprint`: hash function and octets.
    pub fingerprint: String,
    /// We start the DTLS handshake: the offer said `a=setup:passive`.
    pub active: bool,
    /// Host candidates, best first.
    pub candidates: Vec<SocketAddr>,
}

/// What we send in one section.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingSource {
    /// Index of the section.
    pub section: usize,
    /// Chosen by us; `a=ssrc` names it.
    pub ssrc: u32,
}

/// Everything that an answer says.
pub struct Answer<'a> {
    /// What is answered: sections and their order are taken from it (RFC 3264 §6).
    pub offer: &'a Offer,
    /// What becomes of each section, in the offer's order.
    pub plans: &'a [Plan],
    /// Ours, the same for all sections of the bundle.
    pub local: &'a LocalDescription,
    /// Viewers: what we send. Empty for publishers.
    pub sources: &'a [OutgoingSource],
    /// Viewers: what they lost is sent again, if they ask by generic NACK (RFC 4585 §6.2.1).
    pub retransmits: bool,
    /// Viewers: name of the stream, and of the source in SDES, so that peers play audio and video
    /// of one publisher in step.
    pub cname: &'a str,
    /// Session id of the `o=` line.
    pub sdp_id: u64,
}

impl Answer<'_> {
    /// The SDP text.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(2048);
        let mids = self.sections().filter(|(_, _, plan)| **plan != Plan::Rejected);
        let mids = mids.map(|(_, section, _)| section.mid.as_str()).collect::<Vec<_>>().join(" ");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "v=0\r\no=- {} 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE {mids}\r\n\
             a=msid-semantic: WMS *\r\n",
            self.sdp_id
        );
        let mut candidates = Some(&self.local.candidates);
        for (index, section, plan) in self.sections() {
            match plan {
                Plan::Rejected => {
                    let format = section.formats_text.first().map_or("0", String::as_str);
                    let _ = write!(
                        text,
                        "m={} 0 {} {format}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=inactive\r\n",
                        section.media, section.protocol, section.mid
                    );
                }
                Plan::Active(format) | Plan::Inactive(format) => {
                    let active = matches!(plan, Plan::Active(_));
                    self.write_section(&mut text, index, section, format, active);
                    // The transport of the bundle stands in its first section (RFC 9143 §7.3.3).
                    for candidate in candidates.take().into_iter().flatten().enumerate() {
                        write_candidate(&mut text, candidate);
                    }
                }
            }
        }
        text
    }

    fn sections(&self) -> impl Iterator<Item = (usize, &Section, &Plan)> {
        self.offer.sections.iter().zip(self.plans).enumerate().map(|(i, (section, plan))| (i, section, plan))
    }

    fn write_section(&self, text: &mut String, index: usize, section: &Section, format: &Format, active: bool) {
        let source = self.sources.iter().find(|source| active && source.section == index);
        let direction = match (active, source) {
            (false, _) => "inactive",
            (true, Some(_)) => "sendonly",
            (true, None) => "recvonly",
        };
        let (pt, codec) = (format.payload_type, format.codec);
        let local = self.local;
        let _ = write!(
            text,
            "m={} 9 {} {pt}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na={direction}\r\na=rtcp-mux\r\n\
             a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:{}\r\na=setup:{}\r\na=rtpmap:{pt} {}/{}{}\r\n",
            section.media,
            section.protocol,
            section.mid,
            local.ufrag,
            local.pwd,
            local.fingerprint,
            if local.active { "active" } else { "passive" },
            codec.name(),
            codec.clock_rate(),
            if codec == penstock_media::codec::Codec::Opus { "/2" } else { "" },
        );
        let fmtp = format.fmtp_for_answer();
        if !fmtp.is_empty() {
            let _ = write!(text, "a=fmtp:{pt} {fmtp}\r\n");
        }
        // Not `transport-cc`. REMB is what we send to publishers; from viewers it would tell us nothing
        // that we act upon.
        for feedback in ["goog-remb", "ccm fir", "nack pli"] {
            if format.offers(feedback) && (feedback != "goog-remb" || source.is_none()) {
                let _ = write!(text, "a=rtcp-fb:{pt} {feedback}\r\n");
            }
        }
        if self.retransmits && source.is_some() && asks_again(format) {
            let _ = write!(text, "a=rtcp-fb:{pt} nack\r\n");
        }
        if let Some(OutgoingSource { ssrc, .. }) = source {
            let (cname, media) = (self.cname, &section.media);
            let _ = write!(text, "a=msid:{cname} {media}\r\na=ssrc:{ssrc} cname:{cname}\r\n");
            let _ = write!(text, "a=ssrc:{ssrc} msid:{cname} {media}\r\n");
        }
    }
}

/// Whether a viewer that offered this format can ask for lost packets. Of video: sound that comes later than its
/// jitter buffer waits is of no use.
pub fn asks_again(format: &Format) -> bool {
    format.codec.kind() == Kind::Video && format.offers("nack")
}

/// `a=candidate` of a host candidate on UDP (RFC 8839 §5.1). The first of the configuration has
/// the highest priority (RFC 8445 §5.1.2.1).
pub(super) fn write_candidate(text: &mut String, (index, address): (usize, &SocketAddr)) {
    let local_preference = 65_535u32.saturating_sub(index as u32);
    let priority = (126 << 24) | (local_preference << 8) | 255;
    let (ip, port) = (address.ip(), address.port());
    let _ = write!(text, "a=candidate:{} 1 udp {priority} {ip} {port} typ host\r\n", index + 1);
}
