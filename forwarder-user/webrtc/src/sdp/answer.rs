//! Writing an SDP answer.

use std::fmt::Write;
use std::net::SocketAddr;

use super::extension::Extension;
use super::negotiate::{Plan, others};
use super::offer::{Offer, Section};
use super::simulcast;
use penstock_media::codec::{Codec, Format};

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
    /// Those at which peers may connect by TCP (RFC 6544), for networks that let no UDP through.
    pub tcp_candidates: Vec<SocketAddr>,
}

/// What we send in one section.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingSource {
    /// Index of the section.
    pub section: usize,
    /// Chosen by us; `a=ssrc` names it.
    pub ssrc: u32,
    /// What is sent again has this SSRC (RFC 4588), and the payload type that the peer has offered for it.
    pub rtx: Option<u32>,
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
    /// Lost packets are sent again to viewers that ask by generic NACK (RFC 4585 §6.2.1), and asked for where
    /// publishers have them.
    pub retransmits: bool,
    /// Publishers may send again by RTX (RFC 4588), on the payload type that they have offered for it.
    pub repairs: bool,
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
        // Writing to a String cannot fail.
        let _ = write!(text, "v=0\r\no=- {} 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n", self.sdp_id);
        let mids = self.sections().filter(|(_, section, plan)| **plan != Plan::Rejected && !section.mid.is_empty());
        let mids = mids.map(|(_, section, _)| section.mid.as_str()).collect::<Vec<_>>().join(" ");
        if !mids.is_empty() {
            let _ = write!(text, "a=group:BUNDLE {mids}\r\n");
        }
        text.push_str("a=msid-semantic: WMS *\r\n");
        let mut candidates = Some(self.local);
        for (index, section, plan) in self.sections() {
            match plan {
                Plan::Rejected => {
                    let Section { media, protocol, first_format, .. } = section;
                    let _ = write!(text, "m={media} 0 {protocol} {first_format}\r\nc=IN IP4 0.0.0.0\r\n");
                    write_mid(&mut text, section);
                    text.push_str("a=inactive\r\n");
                }
                Plan::Active(format) | Plan::Inactive(format) => {
                    let active = matches!(plan, Plan::Active(_));
                    self.write_section(&mut text, index, section, format, active);
                    // The transport of the bundle stands in its first section (RFC 9143 §7.3.3).
                    candidates.take().into_iter().for_each(|local| write_candidates(&mut text, local));
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
        let mut formats = vec![format];
        if active {
            formats.extend(others(section, format, source.is_some()));
        }
        let again = source.and_then(|source| source.rtx);
        let rtx = |format: &Format| match source {
            Some(_) => again.and(format.rtx),
            None => publisher_rtx(format).filter(|_| active && self.retransmits && self.repairs),
        };
        let types = formats.iter().flat_map(|format| [Some(format.payload_type), rtx(format)]).flatten();
        let types: Vec<String> = types.map(|payload_type| payload_type.to_string()).collect();
        let _ = write!(text, "m={} 9 {} {}\r\nc=IN IP4 0.0.0.0\r\n", section.media, section.protocol, types.join(" "));
        write_mid(text, section);
        let local = self.local;
        let _ = write!(
            text,
            "a={direction}\r\na=rtcp-mux\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:{}\r\na=setup:{}\r\n",
            local.ufrag,
            local.pwd,
            local.fingerprint,
            if local.active { "active" } else { "passive" },
        );
        // Congestion feedback goes to publishers only; from viewers it would tell us nothing that we act upon.
        let receives = active && source.is_none();
        let sequence = formats.iter().find_map(|format| transport_sequence(section, format)).filter(|_| receives);
        if let Some(number) = sequence {
            let _ = write!(text, "a=extmap:{number} {}\r\n", Extension::TransportSequence.uri());
        }
        for format in &formats {
            self.write_format(text, section, format, (active, source, rtx(format)));
        }
        if receives {
            write_layers(text, section, formats.iter().any(|format| rtx(format).is_some()));
        }
        if section.receiver_rtt && source.is_some() {
            text.push_str("a=rtcp-xr:rcvr-rtt=all\r\n");
        }
        if let Some(source) = source {
            let media = &section.media;
            let again = again.filter(|_| format.rtx.is_some());
            let _ = write!(text, "a=msid:{} {media}\r\n", self.cname);
            if let Some(repair) = again {
                // RFC 5576 §4.2: the second repeats the first.
                let _ = write!(text, "a=ssrc-group:FID {} {repair}\r\n", source.ssrc);
            }
            for ssrc in [Some(source.ssrc), again].into_iter().flatten() {
                let _ = write!(text, "a=ssrc:{ssrc} cname:{0}\r\na=ssrc:{ssrc} msid:{0} {media}\r\n", self.cname);
            }
        }
    }

    /// What is said of one payload type.
    fn write_format(
        &self,
        text: &mut String,
        section: &Section,
        format: &Format,
        (active, source, rtx): (bool, Option<&OutgoingSource>, Option<u8>),
    ) {
        let (pt, codec) = (format.payload_type, format.codec);
        // As the offer has it, for peers that compare.
        let channels = if codec == Codec::Opus && !section.lone_channel.contains(&pt) { "/2" } else { "" };
        let _ = write!(text, "a=rtpmap:{pt} {}/{}{channels}\r\n", codec.name(), codec.clock_rate());
        let fmtp = format.fmtp_for_answer();
        if !fmtp.is_empty() {
            let _ = write!(text, "a=fmtp:{pt} {fmtp}\r\n");
        }
        // Beside the transport-wide feedback REMB is but a bound.
        let sequence = transport_sequence(section, format).filter(|_| active && source.is_none());
        for feedback in sequence.map(|_| "transport-cc").into_iter().chain(["goog-remb", "ccm fir", "nack pli"]) {
            if format.offers(feedback) && (feedback != "goog-remb" || source.is_none()) {
                let _ = write!(text, "a=rtcp-fb:{pt} {feedback}\r\n");
            }
        }
        if active && self.retransmits && asks_again(format) {
            let _ = write!(text, "a=rtcp-fb:{pt} nack\r\n");
        }
        if let Some(rtx) = rtx {
            let _ = write!(text, "a=rtpmap:{rtx} rtx/{}\r\na=fmtp:{rtx} apt={pt}\r\n", codec.clock_rate());
        }
    }
}

/// The payload type by which a publisher can send again what it is asked for.
pub fn publisher_rtx(format: &Format) -> Option<u8> {
    format.rtx.filter(|_| asks_again(format))
}

/// Number of the header extension by which a publisher counts all packets of its transport, if it takes the feedback
/// that tells which of them came (draft-holmer-rmcat-transport-wide-cc-extensions-01).
pub fn transport_sequence(section: &Section, format: &Format) -> Option<u8> {
    section.extensions.of(Extension::TransportSequence).filter(|_| format.offers("transport-cc"))
}

/// All layers of a publisher's picture, as the offer names them (RFC 8853 §5.3.2).
fn write_layers(text: &mut String, section: &Section, rtx: bool) {
    let Some((_, extension)) = simulcast::layers(section) else { return };
    let _ = write!(text, "a=extmap:{extension} {}\r\n", Extension::Layer.uri());
    if let Some(number) = section.extensions.of(Extension::RepairedLayer).filter(|_| rtx) {
        let _ = write!(text, "a=extmap:{number} {}\r\n", Extension::RepairedLayer.uri());
    }
    let names = &section.layers.names;
    names.iter().for_each(|name| _ = write!(text, "a=rid:{name} recv\r\n"));
    let _ = write!(text, "a=simulcast:recv {}\r\n", names.join(";"));
}

/// `a=mid`, where the offer has one.
fn write_mid(text: &mut String, section: &Section) {
    if !section.mid.is_empty() {
        let _ = write!(text, "a=mid:{}\r\n", section.mid);
    }
}

/// Whether a peer that offered this format can ask for lost packets, or be asked (RFC 4585 §6.2.1).
pub fn asks_again(format: &Format) -> bool {
    format.offers("nack")
}

/// `a=candidate` of each host candidate (RFC 8839 §5.1, RFC 6544 §4.5). The first of the configuration has the highest
/// priority (RFC 8445 §5.1.2.1); all by UDP come before any by TCP, on which a lost packet holds up those behind it.
pub(super) fn write_candidates(text: &mut String, local: &LocalDescription) {
    for (index, address) in local.candidates.iter().enumerate() {
        let preference = 65_535u32.saturating_sub(index as u32);
        write_candidate(text, (index + 1, "udp", (126 << 24) | (preference << 8) | 255), address, "");
    }
    for (index, address) in local.tcp_candidates.iter().enumerate() {
        // RFC 6544 §4.2: of the direction "passive", and a type preference below that of UDP.
        let preference = (4 << 13) + 8191u32.saturating_sub(index as u32);
        let foundation = local.candidates.len() + index + 1;
        write_candidate(text, (foundation, "tcp", (90 << 24) | (preference << 8) | 255), address, " tcptype passive");
    }
}

fn write_candidate(
    text: &mut String,
    (foundation, transport, priority): (usize, &str, u32),
    address: &SocketAddr,
    rest: &str,
) {
    let (ip, port) = (address.ip(), address.port());
    let _ = write!(text, "a=candidate:{foundation} 1 {transport} {priority} {ip} {port} typ host{rest}\r\n");
}
