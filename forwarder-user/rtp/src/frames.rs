//! What leaves: packets with our own sequence numbers, timestamps and markers.
//!
//! The marker says that a frame (an access unit, RFC 6184 §5.1) has ended. Some sources never set it, or set it on each
//! slice or packet. So the last packet of a frame is held back until the next one tells, or for some milliseconds, until
//! the source's markers have been right for some frames in a row. From then on nothing is held or copied.

use std::time::{Duration, Instant};

use forwarder_common::{ExtendedSeq, RtpHeader, rtp::FIXED_LEN};

use super::clock::{Clock, Hint};

/// Takes index, header and payload of each packet that leaves.
pub(crate) type Out<'a> = dyn FnMut(ExtendedSeq, &RtpHeader, &[u8]) + 'a;

/// Frames with right markers in a row, after which the source is believed.
const PROOF: u8 = 8;
/// A packet that the source has marked is held for so long, when nothing follows it.
const MARKED: Duration = Duration::from_millis(10);
/// The same, once the source is known to mark what is no end.
const MARKED_WRONGLY: Duration = Duration::from_millis(20);
/// A packet without a marker is held for so long, once the source is known to leave markers out. Of others, the next
/// packet will come, however long a network stalls.
const UNMARKED: Duration = Duration::from_millis(100);
/// Room for a packet.
const ROOM: usize = 1400;

/// What has become of the present frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is none.
    None,
    /// Not all of it has left.
    Open,
    /// Its last packet has left with a marker.
    Ended,
    /// A part of it is lost, or it was given up: it has no end.
    Broken,
}

/// Whether the source's markers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// They were right for so many frames.
    Probing(u8),
    Given,
    /// They were wrong once.
    Never,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Frames {
    clock: Clock,
    /// Index of the last packet that left.
    last: ExtendedSeq,
    /// Packets that are missing before the next one that leaves.
    gap: u64,
    /// Of the present frame.
    timestamp: u32,
    state: State,
    trust: Trust,
    held: Option<Held>,
    /// Its memory, while nothing is held.
    room: Vec<u8>,
    /// When what is being looked at came.
    pub(crate) now: Instant,
    /// Its timestamp does not follow from those before.
    pub(crate) other_clock: bool,
    frames: u64,
    /// Frames at which decoding can start, as far as the codec's own file has seen.
    pub(crate) keyframes: u64,
}

/// The packet that may be the frame's last.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    /// The source's marker.
    marker: bool,
    until: Option<Instant>,
}

impl Frames {
    /// `last`: indices go on after it.
    pub(crate) fn new(clock_rate: u32, last: ExtendedSeq, now: Instant) -> Self {
        Self {
            clock: Clock::new(clock_rate),
            last,
            gap: 0,
            timestamp: 0,
            state: State::None,
            trust: Trust::Probing(0),
            held: None,
            room: vec![],
            now,
            other_clock: true,
            frames: 0,
            keyframes: 0,
        }
    }

    /// The source's clock.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Timestamps go on after those of another track.
    pub(crate) fn succeed(&mut self, former: &Self) {
        self.clock.succeed(&former.clock);
    }

    /// A new connection: another source, for all that is known.
    pub(crate) fn reconnect(&mut self) {
        self.trust = Trust::Probing(0);
        self.other_clock = true;
    }

    /// Frames that were begun.
    pub(crate) fn count(&self) -> u64 {
        self.frames
    }

    /// Whether markers came where no frame ends, or not where one does.
    pub(crate) fn markers_are_wrong(&self) -> bool {
        self.trust == Trust::Never
    }

    /// The present frame is begun and has no end yet.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Something is lost of the present frame, or behind it.
    pub(crate) fn lacks_packets(&self) -> bool {
        self.state == State::Broken || self.gap > 0
    }

    /// The source's marker stood on the last packet of the present frame so far.
    pub(crate) fn was_marked(&self) -> bool {
        self.state == State::Ended || self.held.as_ref().is_some_and(|held| held.marker)
    }

    /// A frame that is open, and whose last packet has left without a marker: its end was not seen.
    pub(crate) fn lacks_end(&self) -> bool {
        self.state == State::Open && self.held.is_none()
    }

    /// What is held back, to be changed before it leaves.
    pub(crate) fn held_mut(&mut self) -> Option<&mut [u8]> {
        self.held.as_mut().map(|held| &mut held.bytes[..])
    }

    /// When [`release`](Self::release) shall be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.as_ref().and_then(|held| held.until)
    }

    /// Ends the frame before, and begins another one. `source`: its timestamp.
    /// Whether it is shown before the one before.
    pub(crate) fn begin(&mut self, source: u32, hint: Hint, out: &mut Out<'_>) -> bool {
        match &self.held {
            Some(held) => {
                self.judge(held.marker);
                self.send_held(true, out);
            }
            None if self.state == State::Ended => self.judge(true),
            None if self.state == State::Open => self.judge(false),
            None => {}
        }
        let other_clock = std::mem::take(&mut self.other_clock) | hint.other_clock;
        let timestamp = self.clock.frame(source, self.now, Hint { other_clock, ..hint });
        let before = std::mem::replace(&mut self.timestamp, timestamp);
        self.state = State::Open;
        self.frames += 1;
        self.frames > 1 && (timestamp.wrapping_sub(before) as i32) < 0
    }

    /// The next packet of the present frame. `marker`: the source says that it is the last one.
    pub(crate) fn push(&mut self, payload: &[u8], marker: bool, out: &mut Out<'_>) {
        match &self.held {
            Some(held) => {
                if held.marker {
                    self.trust = Trust::Never;
                }
                self.send_held(false, out);
            }
            None if self.state == State::Ended => self.trust = Trust::Never,
            None => {}
        }
        if self.trust == Trust::Given || self.state == State::Broken {
            self.state = if marker { State::Ended } else { self.state };
            return self.send(marker, payload, out);
        }
        self.state = State::Open;
        let patience = match (self.trust, marker) {
            (Trust::Never, true) => Some(MARKED_WRONGLY),
            (Trust::Never, false) => Some(UNMARKED),
            (_, true) => Some(MARKED),
            (_, false) => None,
        };
        let mut bytes = std::mem::take(&mut self.room);
        if bytes.capacity() == 0 {
            bytes.reserve_exact(ROOM);
        }
        bytes.clear();
        bytes.extend_from_slice(payload);
        self.held = Some(Held { bytes, marker, until: patience.map(|patience| self.now + patience) });
    }

    /// A packet that is a frame by itself: sound. `ahead`: how far behind the frame's begin it stands.
    pub(crate) fn push_whole(&mut self, payload: &[u8], marker: bool, ahead: u32, out: &mut Out<'_>) {
        self.state = State::Ended;
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(ahead);
        self.send(marker, payload, out);
        self.timestamp = timestamp;
    }

    /// The frame has an end that the source did not mark.
    pub(crate) fn push_end(&mut self, payload: &[u8], out: &mut Out<'_>) {
        self.send(true, payload, out);
        self.trust = Trust::Never;
        self.state = State::Broken;
    }

    /// Packets are missing here.
    pub(crate) fn lost(&mut self, count: u64, out: &mut Out<'_>) {
        if let Some(marker) = self.held.as_ref().map(|held| held.marker) {
            self.send_held(marker, out);
        }
        if self.state == State::Open {
            self.state = State::Broken;
        }
        self.gap += count;
    }

    /// What comes does not follow from what came. A frame without its end must not be taken for a whole one.
    pub(crate) fn cut(&mut self, out: &mut Out<'_>) {
        self.lost(0, out);
        if self.state == State::Broken && self.gap == 0 {
            self.gap = 1;
        }
        self.state = State::None;
    }

    /// What is held leaves: its time has come.
    pub(crate) fn release(&mut self, out: &mut Out<'_>) {
        self.send_held(true, out);
    }

    fn judge(&mut self, right: bool) {
        self.trust = match self.trust {
            Trust::Probing(frames) if right && frames + 1 >= PROOF => Trust::Given,
            Trust::Probing(frames) if right => Trust::Probing(frames + 1),
            trust if right => trust,
            _ => Trust::Never,
        };
    }

    fn send_held(&mut self, marker: bool, out: &mut Out<'_>) {
        if let Some(held) = self.held.take() {
            self.send(marker, &held.bytes, out);
            if marker {
                self.state = State::Ended;
            }
            self.room = if self.trust == Trust::Given { vec![] } else { held.bytes };
        }
    }

    fn send(&mut self, marker: bool, payload: &[u8], out: &mut Out<'_>) {
        self.last.0 += 1 + std::mem::take(&mut self.gap);
        out(self.last, &outgoing(marker, self.timestamp), payload);
    }
}

/// The engine writes payload type, sequence number and SSRC of its own.
fn outgoing(marker: bool, timestamp: u32) -> RtpHeader {
    let mut bytes = [0; FIXED_LEN];
    bytes[0] = 0x80;
    bytes[1] = u8::from(marker) << 7;
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    RtpHeader::new(&bytes)
}
