//! What publishers send again by RTX (RFC 4588), on the way of what it repairs.
//!
//! The kernel opens an SSRC of repairs as any other, with a replay list of its own, and hands its packets over in the
//! clear (`taps`). Here the packet within becomes what it was, sealed as its publisher would have sealed it on the SSRC
//! of the media, and goes through the ingress program once more (`BPF_PROG_TEST_RUN` with live frames, Linux 5.18). So
//! there is one replay list, one way to the viewers, and one owner of their indices: a late original and its repair are
//! told apart by nobody, the first one claims the index, in the program, after its tag was right and before anything is
//! sealed; the other one is a replay. Whatever a publisher puts into the two, one of them leaves.
//!
//! The sealed packet stays in this machine: the program drops it or sends copies under the viewers' keys. Its IPv4
//! checksum is wrong on purpose, so that the stack drops it where no track takes it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use aya::{
    TestRun as _,
    programs::{TestRunAttrs, TestRunOptions},
};
use forwarder_common::{ExtendedSeq, RtpHeader, rtp::FIXED_LEN};
use penstock_srtp::cipher::Cipher;

use super::{
    KernelEngine,
    again::SharedDatapath,
    shared::Shared,
    state::{Session, State},
};
use crate::{
    PublisherTrackId, Transport,
    repair::{Repairs, unwrap},
    route::canonical,
    slots::Slots,
};

/// Packets that are put in again in a second, of all tracks: each costs a system call of some 20 µs.
const PER_SECOND: u32 = 2000;

/// The reader's part.
pub struct Unwrapper {
    shared: Arc<Shared>,
    datapath: SharedDatapath,
    repairs: Arc<Repairs>,
    second: Instant,
    left: u32,
}

impl KernelEngine {
    /// For the thread that reads the taps.
    pub fn unwrapper(&self) -> Unwrapper {
        Unwrapper {
            shared: Arc::clone(&self.shared),
            datapath: Arc::clone(&self.datapath),
            repairs: Arc::clone(&self.repairs),
            second: Instant::now(),
            left: PER_SECOND,
        }
    }
}

/// A packet as it was, and what is needed to send it on its way.
struct Found<'a> {
    header: RtpHeader,
    payload: &'a [u8],
    index: ExtendedSeq,
    cipher: Arc<Cipher>,
    transport: Transport,
}

impl Unwrapper {
    /// A packet of this track, if that brings repairs.
    pub fn take(&mut self, track: PublisherTrackId, header: &RtpHeader, payload: &[u8]) {
        let Some(found) = find(&mut self.shared.lock(), track.0, header, payload) else {
            self.repairs.useless.fetch_add(1, Relaxed);
            return;
        };
        let counted = if self.is_within_the_budget() && self.put_in(&found).is_some() {
            &self.repairs.unwrapped
        } else {
            &self.repairs.refused
        };
        counted.fetch_add(1, Relaxed);
    }

    fn is_within_the_budget(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.left) = (Instant::now(), PER_SECOND);
        }
        let within = self.left > 0;
        self.left = self.left.saturating_sub(1);
        within
    }

    fn put_in(&self, found: &Found<'_>) -> Option<()> {
        let Found { header, payload, index, cipher, transport } = found;
        let mut packet = vec![0; FIXED_LEN + payload.len() + cipher.tag_len()];
        let words = header.copy_as(header.payload_type(), header.seq(), header.timestamp(), header.ssrc());
        for (place, word) in packet.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        if !cipher.seal_rtp(&mut packet, FIXED_LEN, payload, header.ssrc(), *index) {
            return None;
        }
        let frame = frame(*transport, &packet)?;
        let mut datapath = self.datapath.lock().unwrap_or_else(PoisonError::into_inner);
        let ingress = datapath.as_mut()?.ingress().ok()?;
        let attrs = TestRunAttrs::new().xdp_live_frames(1);
        let options = TestRunOptions { data_in: Some(&frame), attrs, ..TestRunOptions::new() };
        ingress.test_run(options).inspect_err(|error| tracing::debug!("a repair was not taken: {error}")).ok().map(drop)
    }
}

/// What a packet of repairs carries, if its track lacks that.
fn find<'a>(state: &mut State, track: u32, header: &RtpHeader, payload: &'a [u8]) -> Option<Found<'a>> {
    let State { tables, sessions, publishers, .. } = state;
    let repairs = publishers.get(track).filter(|publisher| !publisher.stopping)?;
    let (of, session) = (repairs.repairs?, repairs.session);
    // A handle that was given out again may be another publisher's.
    let publisher = publishers.get(of).filter(|publisher| !publisher.stopping && publisher.session == session)?;
    let (header, payload) = unwrap(header, payload, (publisher.track.payload_type, publisher.track.ssrc))?;
    let replay = tables.replay.get(Slots::<()>::slot(of))?;
    let index = replay.highest().estimate(header.seq())?;
    // Most of what is sent again has come: senders fill their probes with it.
    replay.check(index).ok()?;
    let session = sessions.get_mut(publisher.session).filter(|session| !session.closing)?;
    Some(Found { header, payload, index, transport: session.transport, cipher: Session::cipher(session)? })
}

/// A frame with this UDP payload, as it would come from a peer.
fn frame(transport: Transport, payload: &[u8]) -> Option<Vec<u8>> {
    const UDP: usize = 8;
    let (peer, local): (SocketAddr, SocketAddr) = (canonical(transport.peer), canonical(transport.local));
    let len = u16::try_from(UDP + payload.len()).ok()?;
    let mut frame = vec![0; 12];
    match (peer.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => return None,
    }
    frame.extend(peer.port().to_be_bytes());
    frame.extend(local.port().to_be_bytes());
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend_from_slice(payload);
    Some(frame)
}
