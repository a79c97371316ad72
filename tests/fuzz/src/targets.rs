//! What is fuzzed, and what must hold whatever comes: beyond that nothing panics, round trips, output that is bounded by
//! the input, indices that rise, and nothing that is believed without the key.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use forwarder_common::rtp::{FIXED_LEN, protocol};
use forwarder_common::seq::ReplayWindow;
use forwarder_common::{ExtendedSeq, RtpHeader, maps};
use penstock::config::{Config, mediamtx};
use penstock::ingest::outside;
use penstock_engine::io::tcp::Deframer;
use penstock_media::Profile;
use penstock_media::codec::Codec;
use penstock_rtp::aac;
use penstock_rtp::description::{Description, Sound, Writer};
use penstock_rtp::{Pipeline, Reorder, sender_report};
use penstock_srtp::kdf;
use penstock_srtp::srtcp::{RtcpOpener, RtcpSealer, RtpOpener};
use penstock_webrtc::peer::{Locals, Pair, Peer};
use penstock_webrtc::sdp::{Fragment, Offer};
use penstock_webrtc::{dtls, ice::Check, rtcp};
use str0m::config::DtlsCert;
use str0m::ice::StunMessage;

/// A parser, and what must hold of it.
pub struct Target {
    /// Of its corpus, too.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// Folders with more inputs, from the repository's root.
    pub fixtures: &'static [&'static str],
    /// What the format is made of.
    pub words: &'static [&'static [u8]],
    /// Bytes that it may allocate for each byte of input, and for none.
    pub allocates: (u64, u64),
    /// What has come of it, or what is wrong.
    pub run: fn(&[u8]) -> Result<u64, String>,
}

const SDP: &[&[u8]] = &[
    b"\r\n",
    b"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
    b"a=rtcp-fb:* nack\r\n",
    b"a=rtpmap:96 H264/90000\r\n",
    b"a=mid:",
    b"a=group:BUNDLE 0 1\r\n",
    b"a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n",
    b"a=fmtp:96 ",
    b"a=ssrc-group:FID 1 2\r\n",
    b"a=fingerprint:sha-256 ",
    b"a=setup:actpass\r\n",
    b"a=simulcast:send 1;2\r\n",
    b"a=rid:1 send\r\n",
    b"a=control:",
    b"sprop-parameter-sets=",
    b"c=IN IP4 239.0.0.1/1\r\n",
    b";",
    b":",
    b"=",
];
const RTSP: &[&[u8]] = &[
    b"\r\n\r\n",
    b"Content-Length: ",
    b"CSeq: 1\r\n",
    b"ANNOUNCE rtsp://h/s RTSP/1.0\r\n",
    b"RTSP/1.0 200 OK\r\n",
    b"$\0\0\x04",
    b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1",
    b"client_port=5000-5001",
    b"Digest username=\"a\", ",
    b"Basic ",
    b"response=\"",
    b"nonce=\"",
    b"Session: 1;timeout=60\r\n",
    b",",
    b";",
];

/// All of them.
pub static TARGETS: [Target; 18] = [
    Target {
        name: "offer",
        what: "SDP offers of WHIP and WHEP",
        fixtures: &["forwarder-user/webrtc/src/sdp/fixtures"],
        words: SDP,
        allocates: (256, 64 << 10),
        run: offer,
    },
    Target {
        name: "fragment",
        what: "ICE fragments of PATCH (RFC 8840)",
        fixtures: &[],
        words: SDP,
        allocates: (64, 16 << 10),
        run: fragment,
    },
    Target {
        name: "rtcp",
        what: "authenticated RTCP of peers",
        fixtures: &[],
        words: &[&[0x81, 205, 0, 3], &[0x84, 206, 0, 4], &[0x81, 200, 0, 12], &[0x80, 207, 0, 1]],
        allocates: (512, 64 << 10),
        run: compound,
    },
    Target {
        name: "srtp",
        what: "SRTP and SRTCP without the key: nothing is believed",
        fixtures: &[],
        words: &[],
        allocates: (64, 64 << 10),
        run: forged,
    },
    Target {
        name: "stun",
        what: "STUN from anybody to a session",
        fixtures: &[],
        words: &[&[0x21, 0x12, 0xa4, 0x42], &[0, 6], &[0, 8, 0, 20], &[0, 0x25, 0, 0], &[0x80, 0x28, 0, 4]],
        allocates: (256, 512 << 10),
        run: stun,
    },
    Target {
        name: "frames",
        what: "packets in TCP connections (RFC 4571), however they are cut",
        fixtures: &[],
        words: &[&[0, 4], &[0, 0], &[0x10, 0], &[0x10, 1], &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]],
        allocates: (64, 32 << 10),
        run: frames,
    },
    Target {
        name: "dtls",
        what: "DTLS from a session's address: ClientHello, its fragments, alerts",
        fixtures: &[],
        words: &[&[22, 0xfe, 0xfd], &[21, 0xfe, 0xfd, 0, 0], &[1, 0, 0], &[20, 0xfe, 0xfd]],
        allocates: (4096, 8 << 20),
        run: datagrams,
    },
    Target {
        name: "classify",
        what: "which protocol a datagram is, and RTP headers, as the kernel reads them",
        fixtures: &[],
        words: &[&[0xbe, 0xde, 0, 1], &[0x90, 96], &[0xbf, 96]],
        allocates: (4, 4096),
        run: classify,
    },
    Target {
        name: "replay",
        what: "extended sequence numbers and the replay list, against a list of everything",
        fixtures: &[],
        words: &[],
        allocates: (256, 64 << 10),
        run: replay,
    },
    Target {
        name: "rtsp",
        what: "RTSP messages and frames, in pieces",
        fixtures: &[],
        words: RTSP,
        allocates: (256, 1 << 20),
        run: rtsp,
    },
    Target {
        name: "transport",
        what: "RTSP's Transport header",
        fixtures: &[],
        words: RTSP,
        allocates: (64, 4096),
        run: |input| Ok(u64::from(outside::transport(&String::from_utf8_lossy(input)))),
    },
    Target {
        name: "authorization",
        what: "Basic and Digest of those who publish by RTSP: nobody is let in without the password",
        fixtures: &[],
        words: RTSP,
        allocates: (512, 64 << 10),
        run: authorization,
    },
    Target {
        name: "description",
        what: "SDP of cameras and encoders",
        fixtures: &[],
        words: SDP,
        allocates: (512, 256 << 10),
        run: description,
    },
    Target {
        name: "normalisation",
        what: "RTP of sources, of each codec",
        fixtures: &[],
        words: &[&[0x7c, 0x85], &[0x78, 0, 4], &[0x67, 0x42], &[0x65], &[0x62, 1, 0x93], &[0x60, 1], &[0x90, 0x80]],
        allocates: (512, 4 << 20),
        run: normalisation,
    },
    Target {
        name: "aac",
        what: "AAC of sources: descriptions, AU headers, elements of LATM",
        fixtures: &[],
        words: &[
            b"config=1408",
            b"cpresent=1",
            b"sizelength=13;indexlength=3;",
            b"auxiliaryDataSizeLength=8",
            &[0, 16, 0, 24],
            &[0xff, 0xf1, 0x60, 0x40],
            &[0x40, 0, 0x24, 0x20, 0x3f, 0xc0],
        ],
        allocates: (512, 256 << 10),
        run: aac,
    },
    Target {
        name: "sender-report",
        what: "RTCP of sources",
        fixtures: &[],
        words: &[&[0x80, 200, 0, 6]],
        allocates: (4, 4096),
        run: |input| Ok(u64::from(sender_report::first(input).is_some())),
    },
    Target {
        name: "config",
        what: "our configuration",
        fixtures: &[],
        words: &[
            b"[media]\n",
            b"[limits]\n",
            b"[streams.a]\n",
            b"source = \"rtsp://a/b\"\n",
            b"true",
            b"[]",
            b"\"\"",
            b" = ",
        ],
        allocates: (4096, 1 << 20),
        run: config,
    },
    Target {
        name: "mediamtx",
        what: "MediaMTX's configuration",
        fixtures: &[],
        words: &[
            b"paths:\n",
            b"  a:\n",
            b"    source: rtsp://h/s\n",
            b"- ",
            b"yes",
            b"&a ",
            b"*a",
            b"{",
            b"authInternalUsers:\n",
        ],
        // Aliases of YAML are worth many values, as far as the reader's budget goes.
        allocates: (4096, 16 << 20),
        run: import,
    },
];

fn holds(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what()) }
}

/// An outcome by a text that says what it is, without the numbers and names in it.
fn kind(text: &str) -> u64 {
    text.bytes().filter(u8::is_ascii_lowercase).take(48).fold(1, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte))
}

fn offer(input: &[u8]) -> Result<u64, String> {
    match Offer::parse(&String::from_utf8_lossy(input)) {
        Err(why) => Ok(kind(&why)),
        Ok(offer) => {
            holds((1..=64).contains(&offer.sections.len()), || format!("{} sections", offer.sections.len()))?;
            let said = format!("{offer:?}").len();
            holds(said <= 128 * input.len() + 4096, || format!("{} bytes of input become {said}", input.len()))?;
            let mids: HashSet<&str> = offer.sections.iter().map(|section| section.mid.as_str()).collect();
            holds(mids.len() == offer.sections.len(), || "a mid is there twice".into())?;
            Ok(1000 + offer.sections.iter().filter(|section| section.usable()).count() as u64)
        }
    }
}

fn fragment(input: &[u8]) -> Result<u64, String> {
    match Fragment::parse(&String::from_utf8_lossy(input)) {
        Err(why) => Ok(kind(&why)),
        Ok(fragment) => {
            holds(fragment.candidates <= input.len(), || format!("{} candidates", fragment.candidates))?;
            Ok(2 + u64::from(fragment.credentials.is_some()))
        }
    }
}

fn compound(input: &[u8]) -> Result<u64, String> {
    let rtcp::Parsed { found, malformed } = rtcp::parse(input);
    let is_short = input.len() <= rtcp::MAX_COMPOUND || found.is_empty() && malformed == 1;
    holds(is_short, || format!("{} bytes are read", input.len()))?;
    holds(malformed <= input.len() as u64 / 4 + 1, || format!("{malformed} malformed packets"))?;
    // A NACK names 17 packets in 4 bytes.
    holds(found.len() <= 5 * input.len() && found.len() <= 2048, || format!("{} items", found.len()))?;
    Ok(u64::from(malformed > 0) + found.iter().fold(0, |seen, item| seen ^ kind(&format!("{item:?}"))))
}

/// Keys that nobody who fuzzes has.
fn keys() -> &'static kdf::Keys {
    static KEYS: OnceLock<kdf::Keys> = OnceLock::new();
    KEYS.get_or_init(|| kdf::derive(Profile::AeadAes128Gcm, &[0x5a; 56], true).expect("as long as RFC 5764 says"))
}

fn forged(input: &[u8]) -> Result<u64, String> {
    let mut rtcp = RtcpOpener::new(&keys().incoming.rtcp);
    let opened = rtcp.open(input);
    holds(opened.is_err(), || format!("SRTCP is believed: {opened:?}"))?;
    let rtp = RtpOpener::new(&keys().incoming.rtp);
    for index in [0, 1, 0xffff, 0x1_0000, u64::from(u32::MAX)] {
        holds(!rtp.authenticate(input, ExtendedSeq(index)), || format!("SRTP is believed, index {index}"))?;
    }
    // And what is sealed is what is opened.
    let mut sealer = RtcpSealer::new(&keys().outgoing.rtcp);
    let mut same = RtcpOpener::new(&keys().outgoing.rtcp);
    if let Some(sealed) = sealer.seal(input) {
        let back = same.open(&sealed).is_ok_and(|opened| opened == input);
        holds(back, || "SRTCP does not come out as it went in".into())?;
        holds(same.open(&sealed).is_err(), || "SRTCP is believed twice".into())?;
    }
    Ok(opened.err().map_or(0, |refused| kind(&format!("{refused:?}"))))
}

/// A session that awaits its peer.
fn peer() -> Result<Peer, String> {
    static CERTIFICATE: OnceLock<DtlsCert> = OnceLock::new();
    static OFFER: OnceLock<Offer> = OnceLock::new();
    let certificate = CERTIFICATE.get_or_init(|| {
        dtls::provider().dtls_provider.generate_certificate().expect("the provider makes certificates")
    });
    let offer = OFFER.get_or_init(|| {
        Offer::parse(include_str!("../../../forwarder-user/webrtc/src/sdp/fixtures/chromium_publish.sdp"))
            .expect("a fixture of a browser")
    });
    let locals = [Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)))];
    let mut peer =
        Peer::new(Instant::now(), (dtls::Stack::default(), certificate.clone()), &Arc::new(Locals::udp(locals)));
    peer.accept(&offer.remote).map_err(|error| error.to_string())?;
    Ok(peer)
}

/// Pieces of an input: a length, and so many bytes.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        input = rest;
        Some(piece)
    })
}

/// The same packets come of the same bytes, in one piece or in many.
fn frames(input: &[u8]) -> Result<u64, String> {
    let read = |cut: usize| {
        let (mut deframer, mut count, mut sum) = (Deframer::default(), 0u64, 0u64);
        let taken = input.chunks(cut).try_for_each(|part| {
            deframer.take(&mut part.to_vec(), |packet| {
                count += 1;
                sum = packet.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            })
        });
        (count, sum, taken.is_ok())
    };
    let whole = read(input.len().max(1));
    match [1, 2, 3, 7, 100].into_iter().find(|cut| read(*cut) != whole) {
        Some(cut) => Err(format!("other packets in pieces of {cut}")),
        None => Ok(whole.0.min(64) * 2 + u64::from(whole.2)),
    }
}

fn stun(input: &[u8]) -> Result<u64, String> {
    let check = Check::parse(input);
    let mut peer = peer()?;
    let believed = check.as_ref().is_some_and(|check| peer.is_check(check));
    holds(!believed, || "a check is believed without the password".into())?;
    let Ok(message) = StunMessage::parse(input) else { return Ok(2 + u64::from(check.is_some())) };
    let pair = Pair { socket: 0, peer: ([192, 0, 2, 1], 5000).into() };
    let answer = peer.stun_answer(Instant::now(), pair, &message);
    holds(!answer, || "an answer is believed that nobody has asked for".into())?;
    let polled = peer.poll().map_err(|error| format!("it ends the session: {error}"))?;
    holds(polled.datagrams.is_empty(), || format!("{} answers", polled.datagrams.len()))?;
    Ok(1 + u64::from(message.is_binding_request()))
}

fn datagrams(input: &[u8]) -> Result<u64, String> {
    let (mut peer, mut now) = (peer()?, Instant::now());
    let (mut sent, mut outcome) = (0, 1u64);
    for piece in pieces(input).take(16) {
        now += Duration::from_millis(20);
        let received = peer.receive(now, piece);
        outcome = outcome.wrapping_mul(31) ^ received.as_ref().map_or_else(|error| kind(&error.to_string()), |()| 0);
        // A ClientHello that comes before the peer's own, from its address, is taken for it, and may be one that the
        // stack gives up at (docs/security.md, "Not promised"). Nothing but that ends a handshake, and nothing goes on.
        if received.is_err() {
            return Ok(outcome);
        }
        let polled = peer.poll().map_err(|error| format!("it ends the session: {error}"))?;
        sent += polled.datagrams.iter().map(|datagram| datagram.bytes.len()).sum::<usize>();
        holds(polled.events.is_empty(), || format!("{:?}", polled.events))?;
    }
    holds(sent == 0, || format!("{sent} bytes are sent although no pair is nominated"))?;
    Ok(outcome)
}

fn classify(input: &[u8]) -> Result<u64, String> {
    let [first, second, ..] = *input else { return Ok(0) };
    let name = kind(&format!("{:?}", protocol(first, second)));
    let Some((header, length)) = RtpHeader::parse(input) else { return Ok(name) };
    holds((FIXED_LEN..=input.len()).contains(&length), || format!("a header of {length} in {}", input.len()))?;
    holds(header.version() == 2 && length >= header.len_with_csrcs(), || format!("{header:?}"))?;
    let copy = header.copy_as(header.payload_type(), header.seq(), header.timestamp(), header.ssrc());
    let bytes: Vec<u8> = copy.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let again = RtpHeader::parse(&bytes).ok_or("a copy's header is none")?.0;
    let parts =
        |header: &RtpHeader| (header.marker(), header.payload_type(), header.seq(), header.timestamp(), header.ssrc());
    holds(parts(&again) == parts(&header), || format!("{header:?} becomes {again:?}"))?;
    Ok(name ^ length as u64)
}

fn replay(input: &[u8]) -> Result<u64, String> {
    const ROOM: u64 = 64;
    let first = ExtendedSeq(70_000);
    let window = ReplayWindow::<{ ROOM as usize }>::starting_after(first);
    let (mut accepted, mut highest, mut refused) = (HashSet::new(), first, 0u64);
    for number in input.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])) {
        let Some(index) = highest.estimate(number) else { continue };
        holds(index.0 as u16 == number, || format!("{number} is taken for {index:?}"))?;
        holds(index.0.abs_diff(highest.0) <= 1 << 15, || format!("{number} is {index:?} after {highest:?}"))?;
        if window.check(index).and_then(|()| window.accept(index)).is_err() {
            refused += 1;
            let must = index.0 > highest.0;
            holds(!must, || format!("{index:?} is refused after {highest:?}"))?;
            continue;
        }
        holds(accepted.insert(index.0), || format!("{index:?} is accepted twice"))?;
        holds(index > first && index.0 + ROOM > highest.0, || format!("{index:?} is accepted after {highest:?}"))?;
        highest = highest.max(index);
        holds(window.highest() == highest && window.has(index), || format!("{:?} is the highest", window.highest()))?;
    }
    Ok((accepted.len() as u64).ilog2_or_zero() * 64 + refused.ilog2_or_zero())
}

trait Log {
    fn ilog2_or_zero(self) -> u64;
}

impl Log for u64 {
    fn ilog2_or_zero(self) -> u64 {
        self.checked_ilog2().map_or(0, |log| u64::from(log) + 1)
    }
}

fn rtsp(input: &[u8]) -> Result<u64, String> {
    let whole = outside::rtsp(input, input.len().max(1));
    holds(whole.bytes <= input.len(), || format!("{} bytes come of {}", whole.bytes, input.len()))?;
    // However it is cut, the same messages and frames come out, up to how many one read may bring.
    let cut = usize::from(input.first().copied().unwrap_or(0) % 61) + 1;
    let pieces = outside::rtsp(input, cut);
    holds(whole.refused || pieces.refused || pieces.items == whole.items, || {
        format!("{} items in one piece, {} in pieces of {cut}", whole.items, pieces.items)
    })?;
    Ok((whole.items as u64).ilog2_or_zero() * 2 + u64::from(whole.refused))
}

fn authorization(input: &[u8]) -> Result<u64, String> {
    let admitted = outside::authorization("a password that nobody guesses: \u{1f512}", &String::from_utf8_lossy(input));
    holds(!admitted, || "somebody is let in".into())?;
    Ok(0)
}

fn description(input: &[u8]) -> Result<u64, String> {
    // As a camera's, and as a publisher's.
    let written = [Writer::Server, Writer::Sender].map(|writer| Description::parse_for(input, writer, Sound::Opus));
    let [server, sender] = written;
    match server.and(sender) {
        Err(error) => Ok(kind(&error.to_string())),
        Ok(found) => {
            let said = format!("{found:?}").len();
            holds(said <= 512 * input.len() + 4096, || format!("{} bytes of input become {said}", input.len()))?;
            Ok(1000 + found.tracks.len() as u64)
        }
    }
}

/// A description of AAC in the first line, and packets behind it: each has its length in two bytes.
fn aac(input: &[u8]) -> Result<u64, String> {
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (fmtp, mut rest) = (String::from_utf8_lossy(&input[..at]), input.get(at + 1..).unwrap_or_default());
    let kind = if fmtp.contains("cpresent") { "MP4A-LATM" } else { "MPEG4-GENERIC" };
    let sdp = format!("m=audio 0 RTP/AVP 96\na=rtpmap:96 {kind}/16000/1\na=fmtp:96 {fmtp}\n");
    let Ok(described) = Description::parse_for(sdp.as_bytes(), Writer::Server, Sound::Opus) else { return Ok(0) };
    let Some(packing) = described.tracks.first().and_then(|track| track.aac.as_ref()) else { return Ok(1) };
    let (mut receiver, mut now) = (aac::Receiver::new(packing, 96, true), Instant::now());
    let mut units = 0u64;
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (payload, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)).min(behind.len()));
        rest = behind;
        let mut packet = vec![0x80, 96 | payload.first().map_or(0, |first| first & 0x80), 0, units as u8];
        packet.extend([0, 0, units as u8 & 3, 0, 0, 0, 0, 9]);
        packet.extend_from_slice(payload);
        now += Duration::from_millis(20);
        let (mut bytes, mut longest) = (0, 0);
        let _ = receiver.packet(&packet, now, &mut |unit| {
            (bytes, longest) = (bytes + unit.bytes.len(), longest.max(unit.bytes.len()));
            units += 1;
        });
        holds(longest <= aac::MAX_UNIT && bytes <= 2 * aac::MAX_UNIT + packet.len(), || {
            format!("{bytes} bytes of units")
        })?;
    }
    Ok(2 + units.min(64))
}

/// Codecs by the first byte of an input.
const CODECS: [Codec; 9] =
    [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722];

fn normalisation(input: &[u8]) -> Result<u64, String> {
    let Some((codec, input)) = input.split_first() else { return Ok(0) };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let sets = [vec![0x67, 0x42, 0xe0, 0x1f], vec![0x68, 1, 2]];
    let mut pipeline = Pipeline::new(codec, 96, &sets, ExtendedSeq(0), Instant::now());
    let (mut reorder, mut now) = (Reorder::default(), Instant::now());
    let (mut last, mut left, mut outcome, mut wrong) = (0, 0usize, codec as u64, None);
    for piece in pieces(input).take(256) {
        now += Duration::from_millis(10);
        let mut ordered: Vec<Vec<u8>> = Vec::new();
        reorder.push(piece, 96, now, &mut |packet| ordered.push(packet.to_vec()));
        for packet in ordered {
            let taken = pipeline.packet(&packet, now, &mut |index, _, payload| {
                if index.0 <= last {
                    wrong = Some(format!("{codec:?}: index {} after {last}", index.0));
                }
                if payload.is_empty() || payload.len() > maps::MAX_PAYLOAD {
                    wrong = Some(format!("{codec:?}: {} bytes of payload", payload.len()));
                }
                last = index.0;
                left += payload.len();
            });
            outcome = outcome.wrapping_mul(7) ^ taken.map_or_else(|why| kind(why.name()), |()| 1);
        }
    }
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    // Parameter sets are sent again before each keyframe; nothing else is more than came.
    holds(left <= 16 * input.len() + 65_536, || format!("{codec:?}: {left} bytes leave of {}", input.len()))?;
    Ok(outcome)
}

fn config(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    match Config::parse(&text, "fuzzed") {
        Err(error) => Ok(kind(&error.to_string())),
        Ok(config) => {
            // Secrets are not written: where there is none, what is written must say the same.
            let written = toml::to_string(&config).map_err(|error| format!("it cannot be written: {error}"))?;
            let hidden = written.contains("redacted") || text.contains('@');
            let again = Config::parse(&written, "written");
            holds(hidden || again.as_ref().is_ok_and(|again| *again == config), || {
                format!("what it means is written as something else: {:?}\n{written}", again.err())
            })?;
            Ok(1)
        }
    }
}

fn import(input: &[u8]) -> Result<u64, String> {
    match mediamtx::import(&String::from_utf8_lossy(input)) {
        Err(why) => Ok(kind(&why)),
        Ok(imported) => {
            let text = imported.to_toml("fuzzed");
            let read = Config::parse(&text, "imported");
            holds(read.is_ok(), || format!("what is made of it cannot be read: {:?}\n{text}", read.err()))?;
            Ok(1000 + (imported.left_out.len() as u64).ilog2_or_zero())
        }
    }
}
