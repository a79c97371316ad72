//! What an engine is asked for when a viewer has lost a packet.

use forwarder_common::{ExtendedSeq, ReplayWindow};

/// Where a viewer's repairs go (RFC 4588): an SSRC of its own under the viewer's key, with indices of its own.
///
/// Under one key an index of an SSRC must never carry two plaintexts. Here each is given once: the source counts up,
/// is no copy of another one, lives as long as the session and its key, and its SSRC is none of the session's tracks.
#[derive(Debug)]
pub struct RtxSource {
    ssrc: u32,
    payload_type: u8,
    next: ExtendedSeq,
}

impl RtxSource {
    /// A source whose first packet has the index `next`.
    pub fn new(ssrc: u32, payload_type: u8, next: ExtendedSeq) -> Self {
        Self { ssrc, payload_type, next }
    }

    /// Its SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The payload type that the viewer has offered.
    pub fn payload_type(&self) -> u8 {
        self.payload_type
    }

    /// The viewer is sent another format of those that it has offered, whose repairs have this payload type.
    pub fn set_payload_type(&mut self, payload_type: u8) {
        self.payload_type = payload_type;
    }

    /// The next index. `None`: the key has no more (RFC 3711 §9.2).
    pub(crate) fn take(&mut self) -> Option<ExtendedSeq> {
        let index = self.next;
        self.next = ExtendedSeq(index.0 + 1);
        (index <= ExtendedSeq::MAX).then_some(index)
    }
}

/// Why a packet cannot be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrepaired {
    /// The track has not sent it, or there is no such track.
    NeverSent,
    /// It is not kept, or not any more. The incoming index that it would have.
    Missing(ExtendedSeq),
    /// What is kept is not what came: it would be another plaintext under the same index.
    Damaged,
}

/// Which packets of an incoming SSRC have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Of indices below this it is not known any more.
    pub floor: u64,
    /// The highest index that has come.
    pub highest: u64,
    /// Those between that have not, as far as they were asked for, in ascending order.
    pub missing: Vec<u64>,
}

impl Received {
    /// As a replay list has it, from the index `from` on.
    pub(crate) fn of<const N: usize>(replay: &ReplayWindow<N>, from: u64) -> Self {
        let (floor, highest) = (replay.floor(), replay.highest().0);
        let missing = (from.max(floor)..=highest).filter(|index| !replay.has(ExtendedSeq(*index)));
        Self { floor, highest, missing: missing.collect() }
    }
}
