//! May generic XDP be used on this kernel?
//!
//! Broadcast redirection in generic mode clones the packet's skb. Some kernels give each clone its
//! own data, others let them share it: then sealing one subscriber's copy would overwrite the copies
//! before it. Neither the version number nor a feature bit tells which. So the real datapath forwards
//! known packets over a veth pair in a network namespace that exists for this test only, and every
//! copy must open with its own key.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::MapError,
    programs::{ProgramFd, XdpMode},
};
use forwarder_common::{
    ExtendedSeq, SessionKey,
    maps::{EgressGroup, FanoutList, FlowKey, Path, PublisherState, PublisherTrack, SubscriberState, SubscriberTrack},
    nonce,
};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL},
    packet_route::RouteNetlinkMessage as Message,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    Limits,
    load::{self, describe},
    maps::Maps,
    outer::{Batch, new_devmap},
};
use crate::route::Netlink;

const PORT: u16 = 5004;
const PAYLOAD_TYPE: u8 = 96;
const PUBLISHER: u32 = 0x0050_0000;
/// Session 0 is the publisher's, 1 to `COPIES` are the subscribers'.
const COPIES: u32 = 8;
const PACKETS: u64 = 4;
const PAYLOAD: [u8; 160] = [0x5a; 160];
/// The payload of a frame behind Ethernet, IPv4, UDP and RTP headers.
const RTP_OFFSET: usize = 14 + 20 + 8;
const RTP_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Copies cross a veth pair within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the test.
///
/// # Errors
/// Why generic mode must not be used, or why the test could not tell.
pub(super) fn generic_copies_are_private() -> Result<(), String> {
    // The namespace is that of one thread, and goes with it.
    let thread = thread::Builder::new().name("penstock-check".into()).spawn(run);
    let thread = thread.map_err(|error| format!("self-test: {error}"))?;
    thread.join().unwrap_or_else(|_| Err("the self-test panicked".into()))
}

fn run() -> Result<(), String> {
    // SAFETY: no memory is involved; it concerns this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!("the self-test needs a network namespace (CAP_SYS_ADMIN): {error}"));
    }
    let (inside, outside) = veth_pair().map_err(|error| format!("the self-test needs a veth pair: {error}"))?;
    let limits = Limits {
        sessions: COPIES as usize + 1,
        publisher_tracks: 1,
        subscriber_tracks: COPIES as usize,
        viewers_per_stream: COPIES as usize,
    };
    let mut datapath = load::load(&limits, PORT, true, 1).map_err(|error| error.to_string())?;
    let mut maps = Maps::take(datapath.ebpf(), 1).map_err(|error| describe(&error))?;
    fill(&mut maps, inside, &datapath.egress).map_err(|error| format!("self-test: {}", describe(&error)))?;
    let ingress = datapath.ingress().map_err(|error| error.to_string())?;
    ingress.attach_to_if_index(inside, XdpMode::Skb).map_err(|error| format!("self-test: {}", describe(&error)))?;
    exchange(outside)
}

/// Indices of two connected interfaces, both up.
fn veth_pair() -> io::Result<(u32, u32)> {
    let mut netlink = Netlink::open()?;
    let create = Message::NewLink(LinkVeth::new("check0", "check1").build());
    netlink.request(create, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)?;
    let mut indices = Vec::new();
    for link in netlink.links()?.iter().filter(|link| link.name.starts_with("check")) {
        netlink.request(Message::SetLink(LinkUnspec::new_with_index(link.index).up().build()), NLM_F_ACK)?;
        indices.push((link.name.clone(), link.index));
    }
    indices.sort();
    match indices.as_slice() {
        [(_, inside), (_, outside)] => Ok((*inside, *outside)),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// 128-bit key and salt of a session.
fn key(session: u32) -> ([u8; 16], [u8; 12]) {
    ([session as u8 | 0x80; 16], [session as u8 | 0x40; 12])
}

fn ssrc(session: u32) -> u32 {
    PUBLISHER + session
}

/// Outgoing indices start in another ROC for each session.
fn index_offset(session: u32) -> u64 {
    u64::from(session) << 16
}

fn local() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], PORT))
}

fn peer(session: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 10_000 + session as u16))
}

/// One publisher track with its subscribers, all by the interface `inside`.
fn fill(maps: &mut Maps, inside: u32, egress: &ProgramFd) -> Result<(), MapError> {
    let tables = &mut maps.tables;
    let mut list = FanoutList { copies: COPIES, groups_len: 1, ..FanoutList::EMPTY };
    list.groups[0] = EgressGroup { ifindex: inside, start: 0, len: COPIES, reserved: 0 };
    let (mut devmap, fd) = new_devmap(COPIES)?;
    for session in 0..=COPIES {
        let (key, salt) = key(session);
        let key = SessionKey::new(&key, salt).ok_or(MapError::KeyNotFound)?;
        tables.keys.set(session, &key)?;
        tables.leases.set(session, u64::MAX, 0)?;
        if session == 0 {
            continue;
        }
        let member = session - 1;
        let path = Path::new(inside, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], None, local(), peer(session));
        tables.paths.set(session, path.ok_or(MapError::KeyNotFound)?, 0)?;
        let entry = forwarder_common::maps::Session { path: session, ..forwarder_common::maps::Session::FREE };
        tables.sessions.set(session, entry, 0)?;
        let track = SubscriberTrack {
            index_offset: index_offset(session),
            first_in: 1,
            session,
            ssrc: ssrc(session),
            payload_type: PAYLOAD_TYPE,
            ..SubscriberTrack::default()
        };
        tables.subscriber_tracks.set(member, track, 0)?;
        tables.subscriber_state.set(member, SubscriberState::default(), 0)?;
        list.members[member as usize] = member;
        let set = devmap.set(member, inside, Some(egress), 0);
        set.map_err(|error| MapError::IoError(io::Error::other(describe(&error))))?;
    }
    maps.fanouts.lists.set(0, list, 0)?;
    let mut batch = Batch::default();
    batch.add(0, fd.as_fd());
    batch.write(&maps.fanouts.fanouts).map_err(MapError::IoError)?;
    let state = PublisherState::starting_after(ExtendedSeq(0));
    tables.publisher_state.set(0, state.into_bytes(), 0)?;
    let track =
        PublisherTrack { ssrc: ssrc(0), payload_type: PAYLOAD_TYPE, clock_rate: 90_000, ..PublisherTrack::default() };
    tables.publisher_tracks.set(0, track, 0)?;
    tables.flows.insert(FlowKey::new(local(), peer(0), ssrc(0)), 0, 0)
}

/// Sends packets into the interface's other end and opens the copies that come back out of it.
fn exchange(outside: u32) -> Result<(), String> {
    let mut wire = packet_socket(outside).map_err(|error| format!("self-test: packet socket: {error}"))?;
    for index in 1..=PACKETS {
        let frame = frame(index).ok_or("self-test: sealing failed")?;
        wire.write_all(&frame).map_err(|error| format!("self-test: sending: {error}"))?;
    }
    let mut missing: BTreeSet<(u32, u64)> =
        (1..=COPIES).flat_map(|session| (1..=PACKETS).map(move |index| (session, index))).collect();
    let give_up = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while !missing.is_empty() && Instant::now() < give_up {
        let Ok(len) = wire.read(&mut buffer) else { continue };
        if let Some(copy) = read_copy(&buffer[..len])? {
            missing.remove(&copy);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let all = COPIES as usize * PACKETS as usize;
    Err(format!(
        "the self-test got {} of {all} copies: this kernel does not forward in generic mode",
        all - missing.len()
    ))
}

/// A copy's session and incoming index; `None` for other traffic.
fn read_copy(frame: &[u8]) -> Result<Option<(u32, u64)>, String> {
    let Some((headers, body)) = frame.split_at_checked(RTP_OFFSET) else { return Ok(None) };
    let sent_by_us = headers[34..36] == PORT.to_be_bytes() && headers[23] == libc::IPPROTO_UDP as u8;
    if !sent_by_us || body.len() != RTP_LEN + PAYLOAD.len() + TAG_LEN {
        return Ok(None);
    }
    let (header, body) = body.split_at(RTP_LEN);
    let copy_ssrc = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let session = copy_ssrc.wrapping_sub(PUBLISHER);
    let index = u64::from(u16::from_be_bytes([header[2], header[3]]));
    let (key_bytes, salt) = key(session);
    let nonce = nonce::rtp(salt, copy_ssrc, ExtendedSeq(index + index_offset(session)));
    let mut body = body.to_vec();
    let opened = UnboundKey::new(&AES_128_GCM, &key_bytes)
        .and_then(|key| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            LessSafeKey::new(key).open_in_place(nonce, Aad::from(header), &mut body).map(|plain| plain == PAYLOAD)
        })
        .unwrap_or(false);
    if opened {
        return Ok(Some((session, index)));
    }
    Err("on this kernel the copies of a packet share memory, and sealing one damages the others (the self-test \
         received one that does not open): use an interface with native XDP, or a newer kernel"
        .into())
}

/// A publisher's packet in its Ethernet frame.
fn frame(index: u64) -> Option<Vec<u8>> {
    let mut rtp = vec![0x80, PAYLOAD_TYPE];
    rtp.extend((index as u16).to_be_bytes());
    rtp.extend([0; 4]);
    rtp.extend(ssrc(0).to_be_bytes());
    let (key, salt) = key(0);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?);
    let nonce = Nonce::assume_unique_for_key(nonce::rtp(salt, ssrc(0), ExtendedSeq(index)));
    let mut body = PAYLOAD.to_vec();
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&rtp), &mut body).ok()?;
    rtp.extend(body);
    rtp.extend(tag.as_ref());

    // The outgoing template of the opposite direction is this frame's header, but for its lengths.
    let path = Path::new(0, [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], None, peer(0), local())?;
    let mut frame = path.header[..RTP_OFFSET].to_vec();
    frame[16..18].copy_from_slice(&((20 + 8 + rtp.len()) as u16).to_be_bytes());
    frame[38..40].copy_from_slice(&((8 + rtp.len()) as u16).to_be_bytes());
    frame.extend(rtp);
    Some(frame)
}

/// A packet socket that sends and receives whole frames on one interface.
fn packet_socket(ifindex: u32) -> io::Result<Socket> {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
    // SAFETY: the closure fills a sockaddr_ll, which fits the storage, and its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = protocol;
            (*address).sll_ifindex = ifindex as i32;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}
