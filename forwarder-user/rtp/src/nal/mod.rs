//! NAL units in RTP, made fit for browsers: whole access units, whose parts have one timestamp; no payload above 1,200
//! bytes; parameter sets before each keyframe; nothing before the first one. What H.264 and H.265 have in common; what
//! differs is in [`NalCodec`].
//!
//! A payload of a source that is right leaves as it came. | `aggregate`, `annexb` | units that come several in one
//! payload | `fragment` | units that come in several | `cut` | units too long for a packet | `lead`, `sets` | what
//! stands before slices.

pub(crate) mod aggregate;
pub(crate) mod annexb;
mod cut;
mod fragment;
mod lead;
mod sets;

use self::{annexb::Split, cut::send_nal, fragment::Fragment, lead::Lead, sets::Sets};
use super::{
    Incoming, MAX_PAYLOAD, Seen, Unfit,
    clock::Hint,
    frames::{Frames, Out},
    sps::Sps,
};

/// A NAL unit's part in decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A parameter set, by its place in [`NalCodec::SETS`].
    Set(usize),
    /// A slice from which decoding can start.
    Key,
    /// Any other slice.
    Slice,
    /// What stands before the slices of its access unit: delimiters, SEI.
    Lead,
    /// What stands behind them: filler, end of sequence.
    Trail,
    /// Not a NAL unit that RTP carries.
    Invalid,
}

/// The begin of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// Of its picture.
    pub first: bool,
    /// Predicted from later pictures as well. `false` where only its timestamp would tell.
    pub b: bool,
}

/// What one codec's RTP payloads look like.
pub(crate) trait NalCodec {
    /// Length of a NAL unit's header.
    const HEADER: usize;
    /// Kinds of parameter sets.
    const SETS: usize;
    /// Place of the SPS among them.
    const SPS: usize;
    /// Type of a payload that holds several NAL units.
    const AGGREGATE: u8;
    /// Type of a payload that holds a part of one.
    const FRAGMENT: u8;
    /// Types of the same with a decoding order number, if there are such.
    const NUMBERED: Option<(u8, u8)>;
    /// Header of an aggregate that holds parameter sets only.
    const AGGREGATE_HEADER: &'static [u8];
    /// A NAL unit that may end any access unit, and says nothing.
    const FILLER: &'static [u8];
    /// Type of the NAL unit that stands before all others of an access unit.
    const DELIMITER: u8;

    /// Type of a NAL unit or payload. The header is complete.
    fn nal_type(header: &[u8]) -> u8;
    fn class(nal_type: u8) -> Class;
    /// Whether a NAL unit can begin so, behind a start code.
    fn can_begin(bytes: &[u8]) -> bool;
    /// Header of a fragment, its last byte without start and end bits.
    fn fragment_header(nal_header: &[u8]) -> [u8; 3];
    /// Header of the NAL unit of which a fragment is part.
    fn nal_header(fragment: &[u8]) -> [u8; 2];
    /// Reads a slice's first bytes.
    fn begin(nal: &[u8]) -> Begin;
    /// Whether a slice may be shown before the one before it.
    fn may_step_back(begin: Begin, sps: Option<Sps>) -> bool;
    fn read_sps(nal: &[u8]) -> Option<Sps>;

    /// The kind of parameter set that a unit is.
    fn set_kind(nal: &[u8]) -> Option<usize> {
        match Self::class(Self::nal_type(nal.get(..Self::HEADER)?)) {
            Class::Set(kind) => Some(kind),
            _ => None,
        }
    }
}

/// Frames of a source that may have start codes in their slices. Whoever has not by then never has.
const SCANNED: u64 = 64;

/// See the module.
pub(crate) struct Repacker<C: NalCodec> {
    sets: Sets<C>,
    unit: Unit,
    lead: Lead,
    fragment: Fragment,
    /// Decoding can start, or has.
    open: bool,
    b_frames: bool,
    /// Start codes were found in slices.
    start_codes: bool,
    /// Units that were dropped although others of the same packet went on.
    bad: u64,
    scratch: Vec<u8>,
}

/// What the access unit so far has had.
#[derive(Clone, Copy, Default)]
struct Unit {
    /// The source's, of its first slice.
    timestamp: u32,
    /// Bit by kind of parameter set.
    sets: u8,
    key: bool,
    /// Slices that began a picture: two fields are two.
    pictures: u8,
}

impl<C: NalCodec> Repacker<C> {
    /// `sets`: parameter sets from SDP.
    pub(crate) fn new(sets: &[Vec<u8>]) -> Self {
        let mut repacker = Self {
            sets: Sets::new(),
            unit: Unit::default(),
            lead: Lead::default(),
            fragment: Fragment::new(),
            open: false,
            b_frames: false,
            start_codes: false,
            bad: 0,
            scratch: Vec::with_capacity(MAX_PAYLOAD),
        };
        repacker.sets.describe(sets);
        repacker
    }

    /// A new description of the same stream.
    pub(crate) fn use_sets(&mut self, sets: &[Vec<u8>]) {
        self.sets.describe(sets);
    }

    /// What comes now does not follow from what came: nothing leaves before the next keyframe.
    pub(crate) fn restart(&mut self) {
        self.open = false;
        self.unit = Unit::default();
        self.lead.clear();
        self.fragment = Fragment::new();
    }

    /// Whether frames came that browsers do not put in order.
    pub(crate) fn b_frames(&self) -> bool {
        self.b_frames
    }

    /// Adds what is known of the stream.
    pub(crate) fn seen(&self, seen: Seen) -> Seen {
        let (has_sets, sps) = (self.sets.are_complete(), self.sets.sps);
        Seen { has_sets, b_frames: self.b_frames, sps, ..seen }
    }

    /// Units that were dropped although others of the same packet went on, since the last call.
    pub(crate) fn take_bad(&mut self) -> u64 {
        std::mem::take(&mut self.bad)
    }

    /// Takes a payload.
    ///
    /// # Errors
    /// Why nothing of it leaves.
    pub(crate) fn packet(
        &mut self,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let payload = packet.payload;
        if packet.lost {
            self.fragment.lose_begin();
        }
        if payload.is_empty() {
            return Err(Unfit::Empty);
        }
        let nal_type = C::nal_type(payload.get(..C::HEADER).ok_or(Unfit::Malformed)?);
        let (aggregate, fragment) = C::NUMBERED.unwrap_or((C::AGGREGATE, C::FRAGMENT));
        if nal_type == C::FRAGMENT || nal_type == fragment {
            return self.fragment(packet, nal_type != C::FRAGMENT, frames, out);
        }
        self.end_fragment(frames, out);
        if nal_type == C::AGGREGATE || nal_type == aggregate {
            return self.aggregate(packet, nal_type != C::AGGREGATE, frames, out);
        }
        let class = C::class(nal_type);
        if annexb::begins_with::<C>(payload) || self.has_start_code(class, payload, frames) {
            return self.split(payload, packet, frames, out);
        }
        self.whole(payload, packet.marker, packet, frames, out)
    }

    /// Start codes are looked for where they cost little: in what is no slice, and in the first frames.
    fn has_start_code(&self, class: Class, bytes: &[u8], frames: &Frames) -> bool {
        self.scans(class, frames) && annexb::find::<C>(bytes).is_some()
    }

    fn scans(&self, class: Class, frames: &Frames) -> bool {
        let slice = matches!(class, Class::Key | Class::Slice);
        !slice || self.start_codes || frames.count() < SCANNED
    }

    /// Units with start codes between them.
    fn split(
        &mut self,
        bytes: &[u8],
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        self.each(Split::<C>::new(bytes), packet, frames, out)
    }

    /// Units of one payload, each by itself. The payload's marker is the last one's.
    fn each<'a>(
        &mut self,
        units: impl Iterator<Item = &'a [u8]>,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let (mut result, mut taken) = (Err(Unfit::Malformed), 0);
        let mut units = units.peekable();
        while let Some(unit) = units.next() {
            let marker = packet.marker && units.peek().is_none();
            match self.whole(unit, marker, packet, frames, out) {
                Ok(()) => taken += 1,
                Err(why) => (result, self.bad) = (Err(why), self.bad + 1),
            }
        }
        if taken > 0 {
            return Ok(());
        }
        // The packet itself is counted.
        self.bad = self.bad.saturating_sub(1);
        result
    }

    /// A whole NAL unit.
    fn whole(
        &mut self,
        nal: &[u8],
        marker: bool,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let class = C::class(C::nal_type(nal.get(..C::HEADER).ok_or(Unfit::Malformed)?));
        match class {
            Class::Invalid => return Err(Unfit::Unsupported),
            Class::Set(kind) => {
                self.sets.note(kind, nal, &mut self.lead.sets);
                return self.wait(nal, marker, packet, frames, out);
            }
            Class::Lead => return self.wait(nal, marker, packet, frames, out),
            Class::Trail if !frames.is_open() => return Err(Unfit::Behind),
            Class::Trail => {}
            Class::Key | Class::Slice => self.slice(class, nal, packet, frames, out)?,
        }
        send_nal::<C>(&mut self.scratch, nal, marker, frames, out);
        Ok(())
    }

    /// What belongs to the slices that come. `payload`: as it will leave.
    fn wait(
        &mut self,
        payload: &[u8],
        marker: bool,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        // Marked, it ends the access unit whose timestamp it has.
        if marker && frames.is_open() && packet.timestamp == self.unit.timestamp && !frames.was_marked() {
            send_nal::<C>(&mut self.scratch, payload, true, frames, out);
            if self.lead.is_empty() {
                self.lead.sets = 0;
            }
            return Ok(());
        }
        if self.lead.push(payload) { Ok(()) } else { Err(Unfit::TooLong) }
    }

    /// A slice has begun: here access units do, and what waited for it leaves.
    fn slice(
        &mut self,
        class: Class,
        nal: &[u8],
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let (begin, key) = (C::begin(nal), class == Class::Key);
        if !self.open && !key && self.lead.sets == 0 {
            self.lead.clear();
            return Err(Unfit::BeforeKeyframe);
        }
        self.open = true;
        self.b_frames |= begin.b;
        let had_key = if self.begins_unit(begin, packet, frames) {
            if frames.lacks_end() {
                frames.push_end(C::FILLER, out);
            }
            let may_step_back = C::may_step_back(begin, self.sets.sps);
            self.b_frames |= frames.begin(packet.timestamp, Hint { may_step_back, ..Hint::default() }, out);
            frames.keyframes += u64::from(key);
            self.unit = Unit { timestamp: packet.timestamp, sets: self.lead.sets, key, pictures: 1 };
            false
        } else {
            self.unit.sets |= self.lead.sets;
            self.unit.pictures = self.unit.pictures.saturating_add(u8::from(begin.first));
            let had_key = self.unit.key;
            self.unit.key |= key;
            had_key
        };
        let sets = key && !had_key && self.unit.sets.count_ones() as usize != C::SETS;
        if sets || !self.lead.is_empty() {
            self.send_lead(sets, frames, out);
        }
        Ok(())
    }

    /// Does a slice begin an access unit? It does where the timestamp changes (RFC 6184 §5.1); but some sources stamp
    /// each packet, and some never change it.
    fn begins_unit(&self, begin: Begin, packet: &Incoming<'_>, frames: &Frames) -> bool {
        if self.unit.pictures == 0 {
            return true;
        }
        if packet.timestamp != self.unit.timestamp {
            return begin.first || frames.lacks_packets();
        }
        let second_field = self.unit.pictures == 1 && self.sets.sps.is_some_and(|sps| sps.interlaced);
        begin.first && !second_field
    }

    /// A delimiter, parameter sets if they are missing, the rest.
    fn send_lead(&mut self, mut sets: bool, frames: &mut Frames, out: &mut Out<'_>) {
        for payload in self.lead.payloads() {
            let delimiter = payload.get(..C::HEADER).is_some_and(|header| C::nal_type(header) == C::DELIMITER);
            if sets && !delimiter {
                self.sets.send(&mut self.scratch, frames, out);
                sets = false;
            }
            send_nal::<C>(&mut self.scratch, payload, false, frames, out);
        }
        if sets {
            self.sets.send(&mut self.scratch, frames, out);
        }
        self.lead.clear();
    }
}
