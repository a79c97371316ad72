//! Layouts of the BPF maps. `forwarder-ebpf/src/maps.rs` defines the maps themselves.
//!
//! | map | type | key → value | writer | reader |
//! | --- | --- | --- | --- | --- |
//! | `FLOWS` | hash | [`FlowKey`] → publisher-track slot (`u32`) | userspace | ingress |
//! | `PUBLISHER_TRACKS` | array | slot → [`PublisherTrack`] | userspace | ingress |
//! | `PUBLISHER_STATE` | array | slot → [`PublisherState`] | userspace before the flow exists, then ingress | userspace |
//! | `FANOUTS` | array of maps | fan-out slot → devmap with exactly `copies` entries | userspace | ingress |
//! | `FANOUT_LISTS` | array | fan-out slot → [`FanoutList`] | userspace, while the slot is unused | ingress, egress |
//! | `SUBSCRIBER_TRACKS` | array | slot → [`SubscriberTrack`] | userspace, while the slot is unused | egress |
//! | `SUBSCRIBER_STATE` | array | slot → [`SubscriberState`] | userspace before the slot is used, then egress | userspace |
//! | `SESSIONS` | array | slot → [`Session`] | userspace | egress, CLI |
//! | `PATHS` | array | slot → [`Path`] | userspace, while the slot is unused | egress |
//! | `LEASES` | array | session slot → expiry, ns of CLOCK_BOOTTIME (`u64`) | userspace | ingress, egress |
//! | `KEYS` | array of maps | session slot / [`KEY_CHUNK`] → array of so many [`crate::key::SessionKey`] | userspace, while the slot is unused | ingress, egress |
//! | `TOWERS` | array of maps | session slot / [`KEY_CHUNK`] → array of so many [`tower::KeyTable`] | userspace, before and after `KEYS` | ingress, egress |
//! | `SUBSETS` | array of maps | session slot / [`KEY_CHUNK`] → array of so many [`crate::subsets::Subsets`] | userspace, before and after `KEYS` | ingress |
//! | `SUMS` | per-CPU array of 1 | → [`crate::subsets::Sums`] | ingress, within one run | |
//! | `TOWER_TABLES` | array of 1 | → [`tower::Tables`] | userspace, once | ingress, egress |
//! | `PUBLISHER_KEYSTREAMS` | array of maps | publisher-track slot → ring of [`crate::keystream::Entry`] | producer and ingress, by the entry's state | both |
//! | `SUBSCRIBER_KEYSTREAMS` | array of maps | subscriber-track slot → ring, as above | producer and egress | both |
//! | `WINDOWS` | array | publisher-track slot → [`Window`] | producer; ingress, once per wake-up | both |
//! | `KEYSTREAM_LOW` | ring buffer | [`KeystreamLow`]: whose window runs low | ingress | producer |
//! | `STORES` | array of maps | chunk → array of [`crate::store::CHUNK`] [`crate::store::Stored`] | what opens a packet | userspace, when a viewer asks |
//! | `ARRIVALS` | array | publisher-track slot → [`crate::arrivals::Arrivals`] | userspace before the flow exists, then what opens a packet | userspace |
//! | `TAPS` | ring buffer | [`TapRecord`] | ingress | userspace engine |
//! | `COUNTERS` | per-CPU array | [`crate::Counter`] → `u64` | datapath | userspace |
//! | `SERVER` | array of 1 | → [`Server`] | userspace | CLI |
//! | `PASSES` | per-CPU array | pass slot → [`Pass`] | ingress, then egress of the same softirq | |
//! | `PASS_NUMBER` | per-CPU array of 1 | → passes begun (`u64`) | ingress | |
//! | `PROGRAMS` | program array | [`program`] → what opens a packet | userspace, once | ingress, the short way |
//! | `HANDOVER` | per-CPU array of 1 | → [`Handover`] | ingress, then what opens the packet, in one run | |
//! | `ROWS` | per-CPU array | rows slot → [`Rows`] | ingress, then egress of the same softirq | |
//! | `ROWS_NUMBER` | per-CPU array of 1 | → rows published (`u64`) | ingress | |
//! | `FLUSH` | per-CPU array of 1 | → copies since a device's last report | egress | `penstock_xmit` |
//!
//! Replacing an element of `FANOUTS` waits for an RCU grace period in the kernel
//! (`maybe_wait_bpf_programs`), and a whole pass, ingress to the last copy, runs within one softirq.
//! So when userspace has taken a fan-out slot out of use, no copy that names it is in flight, and the
//! subscriber, path and key slots behind it may be written again.

use crate::{seq::ReplayWindow, tower};

/// "No slot": a publisher track without fan-out.
pub const NONE: u32 = u32::MAX;

/// Most copies of one packet in a pass. A veth ring holds 256 frames; a NIC ring has the same shape.
pub const MAX_COPIES: usize = 200;

/// Egress interfaces that one stream can leave by.
pub const MAX_EGRESS: usize = 4;

/// Largest RTP payload in bytes, without header and tag: what an IPv4 datagram of 1,500 bytes holds.
pub const MAX_PAYLOAD: usize = 1444;

/// The MTU where nobody knows another one: Ethernet's.
pub const USUAL_MTU: u32 = 1500;

/// Sessions whose keys lie in one inner map of `KEYS`, of `TOWERS` and of `SUBSETS`: 0.6 MB together. Userspace adds
/// such maps as sessions come and takes none away.
pub const KEY_CHUNK: usize = 32;

/// A lease lasts this long: RFC 7675 §5.1 lets consent last 30 seconds.
pub const LEASE_NS: u64 = 30_000_000_000;

/// Passes that one CPU may have in flight. A devmap queue holds 16 frames per device before it is
/// flushed, so at most 16 packets per egress device can still have unsent copies; [`Server`] knows
/// eight devices. [`Pass::id`] guards what lies beyond.
pub const PASS_SLOTS: usize = 256;

/// An RTP source as it arrives: 5-tuple (protocol is UDP) and SSRC. Network byte order; IPv4
/// addresses as IPv4-mapped IPv6 (`::ffff:a.b.c.d`). 40 bytes, aligned because the BPF stack, on
/// which the key is put together, takes aligned accesses only.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub peer: [u8; 16],
    /// Destination address: one of ours, also behind NAT.
    pub local: [u8; 16],
    /// UDP source port.
    pub peer_port: [u8; 2],
    /// UDP destination port: the media port.
    pub local_port: [u8; 2],
    /// As in the RTP header.
    pub ssrc: [u8; 4],
}

/// What userspace says of one incoming SSRC. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherTrack {
    /// Session slot: key and lease.
    pub session: u32,
    /// Fan-out slot, or [`NONE`]. Changed alone, so a reader sees the old or the new one.
    pub fanout: u32,
    /// RTP clock in Hz, for the jitter of RFC 3550 §6.4.1.
    pub clock_rate: u32,
    /// Host byte order.
    pub ssrc: u32,
    /// The one payload type that is forwarded. Copies of packets with another one are empty: receivers take them for
    /// padding, and miss no sequence number.
    pub payload_type: u8,
    /// 1 audio, 2 video. For people only.
    pub kind: u8,
    /// Not 0: the userspace engine opens this SSRC. Its packets are counted in [`PublisherState::packets`], unread and
    /// unauthenticated, and pass: so userspace learns whether XDP sees all of them. Never changes.
    pub diverted: u8,
    /// Number of the header extension that counts all packets of the transport, 1 to 14; 0: none, and nothing is noted
    /// in `ARRIVALS`. Never changes.
    pub sequence_extension: u8,
    /// Entries of its keystream ring, 0 without one. For people, and to tell an underrun from a track
    /// that has no ring; the ring itself says its size. Changed alone.
    pub keystream: u32,
    /// Not 0: each plaintext also goes to `TAPS`, for subscribers that userspace seals, in a record with
    /// this number. Changed alone.
    pub tap: u32,
    /// Where its packets are kept, as [`crate::store::Range`]; 0: nowhere. Changed alone.
    pub store: u32,
}

/// When the producer of a publisher track's keystreams, its own and its subscribers', wants to be
/// woken, how far its packets are and how long. 32 bytes; one for the whole fan-out, because all its rings
/// advance together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The packet with this incoming index, or the first one beyond, writes the slot to
    /// `KEYSTREAM_LOW` and sets this to `u64::MAX`: one wake-up for each time that the producer arms it.
    pub low: u64,
    /// Highest incoming index that was opened. The producer looks here after it has set `low`: packets
    /// that came in between have woken nobody.
    pub highest: u64,
    /// Longest payload that was opened since the producer has last set this to 0, in bytes. As the others
    /// here it moves only after authentication.
    pub longest: u64,
    /// Payload that the producer's entries serve, in bytes. A longer one wakes it at once.
    pub served: u64,
}

/// A record of `KEYSTREAM_LOW`. 8 bytes. How far the packets are stands in [`Window::highest`]: a record
/// that has waited may be of a track that had the slot before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeystreamLow {
    /// Publisher-track slot.
    pub track: u32,
    /// Padding to 8 bytes, of which records are multiples; 0.
    pub reserved: u32,
}

impl KeystreamLow {
    /// The record, if it has the right length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, ..] = *<&[u8; 8]>::try_from(bytes).ok()?;
        Some(Self { track: u32::from_ne_bytes([a, b, c, d]), reserved: 0 })
    }
}

/// A plaintext packet for the userspace engine. 1,488 bytes, of which `payload_len` of the payload
/// count.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TapRecord {
    /// [`PublisherTrack::tap`] of its track: tells it from a later one in the same slot.
    pub tap: u32,
    /// Bytes of `payload` that count, at most [`MAX_PAYLOAD`].
    pub payload_len: u32,
    /// Incoming index.
    pub index: u64,
    /// When the packet arrived, ns of CLOCK_BOOTTIME.
    pub received_ns: u64,
    /// The fixed part of the RTP header, as it came in.
    pub header: [u8; 12],
    /// Processor on which it was opened, and its copies are made.
    pub cpu: u32,
    /// In the clear; behind `payload_len` bytes lies what the buffer held before.
    pub payload: [u8; MAX_PAYLOAD.next_multiple_of(8)],
}

impl TapRecord {
    /// [`TapRecord::cpu`] of a record.
    pub fn cpu(bytes: &[u8]) -> usize {
        let cpu = bytes.get(core::mem::offset_of!(Self, cpu)..).and_then(|bytes| bytes.first_chunk());
        cpu.map_or(usize::MAX, |cpu| u32::from_ne_bytes(*cpu) as usize)
    }

    /// Number, index, RTP header and payload of a record, if it is one.
    pub fn parse(bytes: &[u8]) -> Option<(u32, crate::ExtendedSeq, crate::RtpHeader, &[u8])> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let index = u64::from_ne_bytes(*bytes.get(core::mem::offset_of!(Self, index)..)?.first_chunk()?);
        let header = bytes.get(core::mem::offset_of!(Self, header)..)?.first_chunk()?;
        let payload = bytes.get(core::mem::offset_of!(Self, payload)..)?.get(..word(4)? as usize)?;
        Some((word(0)?, crate::ExtendedSeq(index), crate::RtpHeader::new(header), payload))
    }
}

/// Reasons counted per publisher track, in the order of [`PublisherState::drops`].
pub const PUBLISHER_DROPS: [crate::Counter; 7] = [
    crate::Counter::DropMalformedRtp,
    crate::Counter::DropOversize,
    crate::Counter::DropPayloadType,
    crate::Counter::DropPublisherExpired,
    crate::Counter::DropReplayed,
    crate::Counter::DropTooOld,
    crate::Counter::DropAuthFailed,
];

/// Index of `reason` in [`PublisherState::drops`]; [`PUBLISHER_DROPS`] holds consecutive counters.
#[inline(always)]
pub const fn publisher_drop(reason: crate::Counter) -> Option<usize> {
    let i = (reason as u32).wrapping_sub(PUBLISHER_DROPS[0] as u32) as usize;
    if i < PUBLISHER_DROPS.len() { Some(i) } else { None }
}

/// Index of `reason` in [`SubscriberState::drops`]; [`SUBSCRIBER_DROPS`] holds consecutive counters.
#[inline(always)]
pub const fn subscriber_drop(reason: crate::Counter) -> Option<usize> {
    let i = (reason as u32).wrapping_sub(SUBSCRIBER_DROPS[0] as u32) as usize;
    if i < SUBSCRIBER_DROPS.len() { Some(i) } else { None }
}

/// What the kernel knows of one incoming SSRC.
#[repr(C)]
#[derive(Debug)]
pub struct PublisherState {
    /// Moves only after the tag of a packet was right.
    pub replay: ReplayWindow,
    /// First index that counts, for the expected number of packets (RFC 3550 §A.3).
    pub first: u64,
    /// Authenticated packets; of a diverted track, those that passed.
    pub packets: u64,
    /// Their payload bytes.
    pub octets: u64,
    /// Drops by [`PUBLISHER_DROPS`].
    pub drops: [u64; 7],
    /// Payload type of the last authentic packet with another one than the track's, plus one; 0: there was none.
    pub other_type: u64,
    /// Arrival of the last authenticated packet, ns of CLOCK_BOOTTIME.
    pub last_arrival_ns: u64,
    /// RTP timestamp of that packet, host byte order.
    pub last_timestamp: u32,
    /// Interarrival jitter times 16, in RTP clock units (RFC 3550 §A.8).
    pub jitter_q4: u32,
}

/// [`PublisherState`] as bytes, the form in which userspace reads and writes the map.
pub type PublisherStateBytes = [u8; size_of::<PublisherState>()];

impl PublisherState {
    /// State of a source that userspace learnt from the packet with index `first`.
    pub const fn starting_after(first: crate::ExtendedSeq) -> Self {
        Self {
            replay: ReplayWindow::starting_after(first),
            first: first.0 + 1,
            packets: 0,
            octets: 0,
            drops: [0; 7],
            other_type: 0,
            last_arrival_ns: 0,
            last_timestamp: 0,
            jitter_q4: 0,
        }
    }

    /// A copy of the map value.
    pub fn from_bytes(bytes: &PublisherStateBytes) -> Self {
        // SAFETY: the struct is `repr(C)` of integers (atomics have the layout of their integer), so
        // every bit pattern is valid; the source need not be aligned.
        unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }

    /// The map value.
    pub fn into_bytes(self) -> PublisherStateBytes {
        // SAFETY: `repr(C)` without padding, and of the same size as the array by its definition.
        unsafe { core::mem::transmute(self) }
    }
}

/// One egress interface of a fan-out: the members `start .. start + len` leave by it, in order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressGroup {
    /// Device of the copies; 0 in groups that are not in use.
    pub ifindex: u32,
    /// Index in [`FanoutList::members`].
    pub start: u32,
    /// Number of members, and of the devmap's entries for this device.
    pub len: u32,
    /// Padding to 16 bytes; 0.
    pub reserved: u32,
}

/// The subscribers of one publisher track, in the order of the devmap's entries.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanoutList {
    /// Number of members, which is also the number of devmap entries.
    pub copies: u32,
    /// Number of groups in use.
    pub groups_len: u32,
    /// The first `groups_len` are in use, each with another device.
    pub groups: [EgressGroup; MAX_EGRESS],
    /// Subscriber-track slots.
    pub members: [u32; MAX_COPIES],
}

/// What userspace says of one outgoing SSRC. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberTrack {
    /// Outgoing index = incoming index + this (wrapping): fixed for the life of the slot, so one
    /// outgoing index never carries two plaintexts.
    pub index_offset: u64,
    /// First incoming index that is for this subscriber; earlier ones would give outgoing indices
    /// that another source may have used.
    pub first_in: u64,
    /// Session slot: key, lease and path.
    pub session: u32,
    /// Host byte order.
    pub ssrc: u32,
    /// Outgoing timestamp = incoming timestamp + this (wrapping).
    pub timestamp_offset: u32,
    /// Publisher-track slot that feeds it. For people only.
    pub publisher_track: u32,
    /// The viewer's for this codec; replaces the publisher's in each copy.
    pub payload_type: u8,
    /// 1 audio, 2 video. For people only.
    pub kind: u8,
    /// DS field of its copies (RFC 2474).
    pub ds: u8,
    /// Padding up to `keystream`; 0.
    pub reserved: u8,
    /// Entries of its keystream ring, as [`PublisherTrack::keystream`].
    pub keystream: u32,
}

/// Reasons counted per subscriber track, in the order of [`SubscriberState::drops`].
pub const SUBSCRIBER_DROPS: [crate::Counter; 4] = [
    crate::Counter::DropSubscriberExpired,
    crate::Counter::DropBeforeJoin,
    crate::Counter::DropInternalEgress,
    crate::Counter::DropTooBigForPath,
];

/// What the kernel knows of one outgoing SSRC. 72 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberState {
    /// Copies handed to the egress device.
    pub packets: u64,
    /// Their payload bytes, as the SR counts them (RFC 3550 §6.4.1).
    pub octets: u64,
    /// Outgoing index of the last copy.
    pub last_index: u64,
    /// When the last copy left, ns of CLOCK_BOOTTIME.
    pub last_sent_ns: u64,
    /// Drops by [`SUBSCRIBER_DROPS`].
    pub drops: [u64; 4],
    /// Outgoing RTP timestamp of the last copy, host byte order.
    pub last_timestamp: u32,
    /// Padding to 72 bytes; 0.
    pub reserved: u32,
}

/// State of a session slot.
pub mod session_state {
    /// Nobody's; the rest of the slot means nothing.
    pub const FREE: u8 = 0;
    /// Its key opens; it has no path.
    pub const PUBLISHER: u8 = 1;
    /// Its key seals; it has a path as soon as the neighbour is resolved.
    pub const SUBSCRIBER: u8 = 2;
}

/// Longest stream or session name kept for the inspection commands, in bytes of UTF-8.
pub const NAME_LEN: usize = 64;

/// One WHIP or WHEP session. 184 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Path slot of a subscriber, or [`NONE`]. Changed alone when the peer moves.
    pub path: u32,
    /// One of [`session_state`].
    pub state: u8,
    /// IANA number of the SRTP profile: 7 AEAD_AES_128_GCM, 8 AEAD_AES_256_GCM (RFC 7714 §14.2).
    pub profile: u8,
    /// Padding; 0.
    pub reserved: [u8; 2],
    /// Peer and local transport address, network byte order, IPv4 as mapped IPv6.
    pub peer: [u8; 16],
    /// Address of ours that the peer was heard at.
    pub local: [u8; 16],
    /// UDP port of the peer, network byte order.
    pub peer_port: [u8; 2],
    /// Our UDP port, network byte order.
    pub local_port: [u8; 2],
    /// Padding up to `created_ns`; 0.
    pub reserved2: [u8; 4],
    /// When the keys were installed, ns of CLOCK_BOOTTIME.
    pub created_ns: u64,
    /// Stream name, zero padded.
    pub stream: [u8; NAME_LEN],
    /// Session id as in the HTTP location, zero padded.
    pub id: [u8; NAME_LEN],
}

impl Session {
    /// What a free slot holds.
    pub const FREE: Session = Session {
        path: NONE,
        state: session_state::FREE,
        profile: 0,
        reserved: [0; 2],
        peer: [0; 16],
        local: [0; 16],
        peer_port: [0; 2],
        local_port: [0; 2],
        reserved2: [0; 4],
        created_ns: 0,
        stream: [0; NAME_LEN],
        id: [0; NAME_LEN],
    };
}

impl FanoutList {
    /// A list without subscribers.
    pub const EMPTY: FanoutList = FanoutList {
        copies: 0,
        groups_len: 0,
        groups: [EgressGroup { ifindex: 0, start: 0, len: 0, reserved: 0 }; MAX_EGRESS],
        members: [0; MAX_COPIES],
    };
}

/// Longest outgoing header up to and including UDP: Ethernet + 802.1Q + IPv6 + UDP.
pub const MAX_HEADER: usize = 14 + 4 + 40 + 8;

/// How copies reach one peer: the headers in front of the RTP header, ready but for lengths and
/// checksums. 80 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Device that the copies leave by; of a VLAN subinterface its parent.
    pub egress_ifindex: u32,
    /// Length of `header` in use: 42 or 46 (IPv4), 62 or 66 (IPv6).
    pub header_len: u8,
    /// 14, or 18 with an 802.1Q tag: where the IP header starts.
    pub l3_offset: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Padding up to `checksum_base`; 0.
    pub reserved: u8,
    /// Ones' complement sum (not inverted, folded to 16 bits, native byte order of 16-bit loads) of
    /// what stays the same. IPv4: the IP header with total length and checksum 0. IPv6: the UDP
    /// pseudo header with length 0, the two ports, and next header 17.
    pub checksum_base: u32,
    /// Network byte order, with lengths and checksums 0; behind `header_len` all 0.
    pub header: [u8; MAX_HEADER],
    /// Largest RTP payload that a packet of the path's MTU holds, in bytes.
    pub max_payload: u16,
}

/// How frames get into and out of the datapath.
pub mod xdp_mode {
    /// Nothing attached.
    pub const NONE: u8 = 0;
    /// In the driver, before the kernel makes an skb.
    pub const NATIVE: u8 = 1;
    /// Behind the driver, on skbs.
    pub const GENERIC: u8 = 2;
}

/// Longest interface name, with the zero behind it (`IFNAMSIZ` of Linux).
pub const INTERFACE_NAME_LEN: usize = 16;

/// The server that owns the maps. For the inspection commands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Layout version; [`LAYOUT_VERSION`] of the writer.
    pub layout: u32,
    /// In the PID namespace of the server.
    pub pid: u32,
    /// ns of CLOCK_BOOTTIME.
    pub started_ns: u64,
    /// Last sign of life of the control plane, ns of CLOCK_BOOTTIME.
    pub heartbeat_ns: u64,
    /// Attached interfaces, 0 where unused.
    pub ifindex: [u32; 8],
    /// [`xdp_mode`] of each.
    pub mode: [u8; 8],
    /// Name of each, zero padded: an index means nothing outside the server's network namespace.
    pub name: [[u8; INTERFACE_NAME_LEN]; 8],
    /// UDP port of the media, host byte order.
    pub media_port: u16,
    /// Padding to a multiple of 8 bytes; 0.
    pub reserved: [u8; 6],
}

/// Changes with every incompatible change of a layout in this crate.
pub const LAYOUT_VERSION: u32 = 7;

/// Between ingress and the egress runs of one packet. Lives for one softirq on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// CPU (upper 16 bits) and number of the pass on it, from 1. The frame carries the same number,
    /// so a copy that outlived its slot is found out.
    pub id: u64,
    /// When the packet arrived, ns of CLOCK_BOOTTIME.
    pub now_ns: u64,
    /// Incoming index.
    pub index: u64,
    /// Slot of the member list by which egress finds each copy's subscriber.
    pub fanout: u32,
    /// Plaintext bytes behind the RTP header.
    pub payload_len: u32,
    /// Header of the packet.
    pub header: crate::RtpHeader,
    /// Copies already made per egress group.
    pub cursor: [u32; MAX_EGRESS],
    /// [`Rows::number`] of the packet's rows; 0 without.
    pub rows: u64,
    /// Not 0: the frame is its only subscriber's packet, sealed, but for its first eight bytes.
    pub finished: u64,
    /// Those.
    pub front: u64,
}

/// Places of `PROGRAMS`, to which ingress passes a packet on by tail calls.
///
/// A program array keeps its programs for as long as somebody has it open or pinned, and they keep it: so it is not
/// pinned, and a server that dies takes its programs along.
pub mod program {
    /// Opens a packet and clones it for everybody.
    pub const FORWARD: u32 = 0;
    /// The short way of packets with one subscriber. Empty where the kernel does not take that program.
    pub const DIRECT: u32 = 1;
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// What ingress knows of a packet that it passes on: a tail call keeps nothing but the frame. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// When the packet arrived, ns of CLOCK_BOOTTIME.
    pub now_ns: u64,
    /// Incoming index.
    pub index: u64,
    /// As it came in: copies are rewritten from it.
    pub header: crate::RtpHeader,
    /// Slot of its publisher track.
    pub track: u32,
    /// Fan-out slot, or [`NONE`].
    pub fanout: u32,
    /// Its subscribers.
    pub copies: u32,
    /// [`PublisherTrack::tap`] when the packet came.
    pub tap: u32,
    /// Where the RTP packet starts in the frame.
    pub offset: u32,
    /// Its length by the UDP header.
    pub len: u32,
    /// RTP header with CSRCs and extension.
    pub header_len: u32,
    /// Bytes between header and tag, encrypted.
    pub payload_len: u32,
}

/// Packets of which one CPU keeps the rows. Rows are for packets with several copies, so a device's queue
/// of 16 frames holds copies of fewer packets than this; with several devices a late copy may find its
/// rows gone, and goes without.
pub const ROWS_SLOTS: usize = 16;

/// A packet's plaintext as all its copies use it for GHASH. 7,784 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rows {
    /// Number of the rows on this CPU, from 1; 0 while they belong to nobody. A copy names the rows that
    /// it wants, so it never gets those of another packet.
    pub number: u64,
    /// Scratch: the sum for one tag.
    pub total: tower::Spread,
    /// The blocks; valid while `number` is the one that the copy names.
    pub rows: tower::PacketRows,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: all are `repr(C)` of integers and byte arrays without padding that matters: aya reads
    // and writes them as plain bytes, and every bit pattern is a valid value.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PublisherTrack {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FanoutList {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SubscriberTrack {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SubscriberState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Session {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Path {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Server {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_lists_are_consecutive_counters() {
        for (i, reason) in PUBLISHER_DROPS.iter().enumerate() {
            assert_eq!(publisher_drop(*reason), Some(i));
        }
        for (i, reason) in SUBSCRIBER_DROPS.iter().enumerate() {
            assert_eq!(subscriber_drop(*reason), Some(i));
        }
        assert_eq!(publisher_drop(crate::Counter::PassStun), None);
        assert_eq!(publisher_drop(crate::Counter::DropNoSubscriber), None);
        assert_eq!(subscriber_drop(crate::Counter::DropRingFull), None);
    }

    #[test]
    fn publisher_state_survives_the_trip_through_bytes() {
        let state = PublisherState::starting_after(crate::ExtendedSeq(70_000));
        let back = PublisherState::from_bytes(&state.into_bytes());
        assert_eq!((back.replay.highest().0, back.first), (70_000, 70_001));
    }

    #[test]
    fn sizes_are_as_documented() {
        assert_eq!(size_of::<FlowKey>(), 40);
        assert_eq!(size_of::<PublisherTrack>(), 32);
        assert_eq!(size_of::<SubscriberTrack>(), 40);
        assert_eq!(size_of::<Window>(), 32);
        assert_eq!(size_of::<TapRecord>(), 1488);
        assert_eq!(size_of::<crate::keystream::Entry>(), 1920);
        assert_eq!(size_of::<SubscriberState>(), 72);
        assert_eq!(size_of::<Path>(), 80);
        assert_eq!(size_of::<Session>(), 184);
        assert_eq!(size_of::<crate::SessionKey>(), 8448);
        assert_eq!(size_of::<tower::KeyTable>(), 9216);
        assert_eq!(size_of::<Rows>(), 9320);
        assert_eq!(size_of::<crate::subsets::Subsets>(), 2432);
        assert_eq!(size_of::<crate::subsets::Sums>(), 11_272);
    }
}
