//! What the answers of our RTSP server have in common, whether somebody publishes or plays.

use std::net::SocketAddr;

use penstock_rtp::rtsp::{
    message::Message,
    transport::{Lower, Transport},
};

use crate::ingest::udp::Ports;

/// What the server knows, whoever asks.
pub(super) const METHODS: &str =
    "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, TEARDOWN, GET_PARAMETER, SET_PARAMETER";
/// Wrong passwords that are heard on one connection.
pub(super) const MAX_GUESSES: u32 = 3;
/// As `Session` says it, seconds, for clients that want to know: media tells us that a connection lives.
pub(super) const SESSION_TIMEOUT: u64 = 60;

/// A refusal: name of its counter, status, words.
pub(super) struct Refusal(pub &'static str, pub u16, pub String);

/// A connection's two ends.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// By TLS.
    pub encrypted: bool,
}

/// What every answer to a request has.
pub(super) fn finish(answer: &mut Message, request: &Message) {
    if let Some(cseq) = request.get("CSeq") {
        answer.push("CSeq", cseq.as_bytes());
    }
    answer.push("Server", concat!("penstock/", env!("CARGO_PKG_VERSION")));
}

/// The first of the alternatives of a `Transport` field that can be had. `secure`: as SRTP, too.
pub(super) fn choose(field: &str, secure: bool) -> Result<Transport, Refusal> {
    let can_be_had = |wanted: &Transport| match wanted.lower {
        _ if wanted.secure && !secure => false,
        // RTCP needs the next one.
        Lower::Tcp => wanted.channel.is_none_or(|channel| channel < u16::from(u8::MAX)),
        Lower::Udp => wanted.client_port.is_some_and(|port| port != 0),
        Lower::Multicast => false,
    };
    Transport::parse(field).find(can_be_had).ok_or_else(refused)
}

/// The channel of one more track, if none of the others has it or the one behind it: as it is asked for, or the next.
pub(super) fn channel(wanted: &Transport, others: impl ExactSizeIterator<Item = Option<u8>>) -> Result<u8, Refusal> {
    let named = wanted.channel.and_then(|channel| u8::try_from(channel).ok());
    let channel = named.or_else(|| u8::try_from(2 * others.len()).ok()).ok_or_else(refused)?;
    let mut others = others.flatten();
    if others.any(|other| channel.abs_diff(other) < 2) { Err(refused()) } else { Ok(channel) }
}

/// Ports of one more track beside the connection, and what its answer says of them.
pub(super) fn ports(ends: &Ends, client: u16) -> Result<(Ports, String), Refusal> {
    let ports = Ports::bind(ends.local.ip(), ends.peer.ip());
    let ports = ports.map_err(|error| Refusal("refused_ports", 503, format!("no UDP port: {error}")))?;
    let (first, last) = (ports.first(), client.saturating_add(1));
    let said = format!("client_port={client}-{last};server_port={first}-{}", first.saturating_add(1));
    Ok((ports, said))
}

fn refused() -> Refusal {
    Refusal("refused_transport", 461, "RTP/AVP by TCP or unicast UDP, please".into())
}
