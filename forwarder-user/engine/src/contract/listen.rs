//! What a consumer in this process asks of an engine: the packets of a track in the clear, as they are accepted, for
//! whom no key seals them. A player by RTSP is one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use forwarder_common::{ExtendedSeq, RtpHeader};
use tokio::sync::mpsc;

/// A packet that an engine has accepted, once for each index of a track.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The consumer's own number of the track.
    pub track: usize,
    /// Another publisher's packets than before, when this has changed.
    pub turn: u32,
    /// As the publisher numbers it, extended: holes are what was lost on the way here.
    pub index: ExtendedSeq,
    /// As the publisher sent it, but for what stands behind the fixed part.
    pub header: RtpHeader,
    /// Shared by all that hear it.
    pub payload: Arc<[u8]>,
}

/// Where packets of one track are put for a consumer. What finds no room is dropped and counted: a consumer that is too
/// slow costs itself.
#[derive(Clone, Debug)]
pub struct Ear {
    packets: mpsc::Sender<Heard>,
    track: usize,
    turn: u32,
    /// The turn of the last of its kind: what others bring is not heard any more.
    current: Arc<AtomicU32>,
    missed: Arc<AtomicU64>,
}

impl Ear {
    /// With room for so many packets of all its tracks. The other end, once dropped, ends it.
    pub fn new(room: usize) -> (Self, mpsc::Receiver<Heard>) {
        let (packets, heard) = mpsc::channel(room);
        (Self { packets, track: 0, turn: 0, current: Arc::default(), missed: Arc::default() }, heard)
    }

    /// Of the same consumer, for a track that it gives this number.
    #[must_use]
    pub fn for_track(&self, track: usize) -> Self {
        Self { track, current: Arc::default(), ..self.clone() }
    }

    /// For the publisher that follows another one, who is not heard from now on.
    #[must_use]
    pub fn for_another(&self) -> Self {
        let turn = self.turn.wrapping_add(1);
        self.current.store(turn, Relaxed);
        Self { turn, ..self.clone() }
    }

    /// As in [`Heard`].
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// The consumer has gone, or hears another publisher.
    pub fn is_closed(&self) -> bool {
        self.packets.is_closed() || self.current.load(Relaxed) != self.turn
    }

    /// Packets that found no room.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Never waits.
    pub(crate) fn tell(&self, index: ExtendedSeq, header: &RtpHeader, payload: &Arc<[u8]>) {
        if self.is_closed() {
            return;
        }
        let heard = Heard { track: self.track, turn: self.turn, index, header: *header, payload: Arc::clone(payload) };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.packets.try_send(heard) {
            self.missed.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publisher whose place another one has taken is not heard, though it goes on.
    #[test]
    fn one_publisher_at_a_time_is_heard() {
        let (ear, mut heard) = Ear::new(2);
        let (first, other_track) = (ear.for_track(0), ear.for_track(1));
        let tell = |ear: &Ear| ear.tell(ExtendedSeq(7), &RtpHeader::new(&[0x80; 12]), &Arc::from(&[1u8][..]));
        tell(&first);
        let second = first.for_another();
        tell(&first);
        tell(&second);
        assert!(first.is_closed() && !second.is_closed() && !other_track.is_closed());
        let mut turns = || heard.try_recv().map(|heard| (heard.track, heard.turn)).ok();
        assert_eq!([turns(), turns(), turns()], [Some((0, 0)), Some((0, 1)), None]);
        tell(&other_track);
        (0..2).for_each(|_| tell(&second));
        assert_eq!(ear.missed(), 1, "there is room for two");
        drop(heard);
        assert!(second.is_closed());
    }
}
