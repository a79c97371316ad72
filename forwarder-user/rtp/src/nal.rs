//! NAL units in RTP, made fit for browsers: no payload above 1,200 bytes, parameter sets before each
//! keyframe, nothing before the first one. What H.264 and H.265 have in common; what differs is in
//! [`NalCodec`].

use super::{MAX_PAYLOAD, Unfit};

/// A NAL unit's part in decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A parameter set, by its place in [`NalCodec::SETS`].
    Set(usize),
    /// A slice from which decoding can start.
    Key,
    /// Any other slice.
    Slice,
    /// Delimiters, SEI, filler.
    Other,
    /// Not a NAL unit that RTP carries.
    Invalid,
}

/// Start and end bits of a fragment's header.
const START: u8 = 0x80;
const END: u8 = 0x40;

/// What one codec's RTP payloads look like.
pub(crate) trait NalCodec {
    /// Length of a NAL unit's header.
    const HEADER: usize;
    /// Kinds of parameter sets.
    const SETS: usize;
    /// Type of a payload that holds several NAL units.
    const AGGREGATE: u8;
    /// Type of a payload that holds a part of one.
    const FRAGMENT: u8;
    /// Header of an aggregate that holds parameter sets only.
    const AGGREGATE_HEADER: &'static [u8];

    /// Type of a NAL unit or payload. The header is complete.
    fn nal_type(header: &[u8]) -> u8;
    fn class(nal_type: u8) -> Class;
    /// Header of a fragment, its last byte without start and end bits.
    fn fragment_header(nal_header: &[u8]) -> [u8; 3];
    /// Header of the NAL unit of which a fragment is part.
    fn nal_header(fragment: &[u8]) -> [u8; 2];
    /// Whether a slice is predicted from later ones. `false` where only its timestamp would tell.
    fn is_b_slice(nal: &[u8]) -> bool;
}

/// Parameter sets that are kept: their number by kind, and their size.
const MAX_SETS: usize = 8;
const MAX_SET: usize = 4096;

/// See the module.
pub(crate) struct Repacker<C: NalCodec> {
    codec: std::marker::PhantomData<C>,
    /// The last parameter sets, by kind.
    sets: Vec<Vec<Vec<u8>>>,
    unit: Unit,
    /// Decoding can start, or has.
    open: bool,
    b_frames: bool,
    scratch: Vec<u8>,
}

/// What the access unit so far has had.
#[derive(Clone, Copy, Default)]
struct Unit {
    timestamp: u32,
    /// Bit by kind of parameter set.
    sets: u8,
    key: bool,
    slice: bool,
}

impl<C: NalCodec> Repacker<C> {
    /// `sets`: parameter sets from SDP.
    pub(crate) fn new(sets: &[Vec<u8>]) -> Self {
        let mut repacker = Self {
            codec: std::marker::PhantomData,
            sets: vec![vec![]; C::SETS],
            unit: Unit::default(),
            open: false,
            b_frames: false,
            scratch: Vec::with_capacity(MAX_PAYLOAD),
        };
        repacker.use_sets(sets);
        repacker
    }

    /// A new description of the same stream.
    pub(crate) fn use_sets(&mut self, sets: &[Vec<u8>]) {
        self.unit = Unit::default();
        for set in sets {
            self.note(set);
        }
        self.unit = Unit::default();
    }

    /// What comes now does not follow from what came: nothing leaves before the next keyframe.
    pub(crate) fn restart(&mut self) {
        self.open = false;
        self.unit = Unit::default();
    }

    /// Whether frames came that browsers do not put in order.
    pub(crate) fn b_frames(&self) -> bool {
        self.b_frames
    }

    /// Takes a payload; `out` gets marker and payload of each packet that leaves.
    ///
    /// # Errors
    /// Why nothing left.
    pub(crate) fn packet(
        &mut self,
        timestamp: u32,
        marker: bool,
        payload: &[u8],
        out: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<(), Unfit> {
        let nal_type = C::nal_type(payload.get(..C::HEADER).ok_or(Unfit::Malformed)?);
        if timestamp != self.unit.timestamp {
            let back = self.unit.timestamp.wrapping_sub(timestamp);
            // A second: more is the source's clock, not the order of its frames.
            self.b_frames |= self.unit.slice && back < 90_000;
            self.unit = Unit { timestamp, ..Unit::default() };
        }
        let had_key = self.unit.key;
        let mut sets_first = false;
        match nal_type {
            t if t == C::AGGREGATE => {
                for nal in Aggregate::<C>::new(payload) {
                    sets_first |= self.note(nal.ok_or(Unfit::Malformed)?);
                }
            }
            t if t == C::FRAGMENT => {
                let start = *payload.get(C::HEADER).ok_or(Unfit::Malformed)? & START != 0;
                if payload.len() < C::HEADER + 2 {
                    return Err(Unfit::Malformed);
                }
                let class = C::class(C::nal_type(&C::nal_header(payload)));
                if start {
                    let first = C::HEADER - 1;
                    sets_first = self.note_slice(class, &payload[first..]);
                }
                self.unit.slice |= matches!(class, Class::Key | Class::Slice);
            }
            _ => sets_first = self.note(payload),
        }
        if C::class(nal_type) == Class::Invalid && nal_type != C::AGGREGATE && nal_type != C::FRAGMENT {
            return Err(Unfit::Unsupported);
        }
        self.open |= self.unit.key || self.unit.sets != 0;
        if !self.open {
            return Err(Unfit::BeforeKeyframe);
        }
        if sets_first && !had_key {
            self.send_sets(out);
        }
        // Some cameras mark parameter sets as the end of a frame that they only begin.
        self.send(payload, nal_type, marker && self.unit.slice, out);
        Ok(())
    }

    /// Takes note of a whole NAL unit. `true`: parameter sets must go before it.
    fn note(&mut self, nal: &[u8]) -> bool {
        let Some(header) = nal.get(..C::HEADER) else { return false };
        let class = C::class(C::nal_type(header));
        let Class::Set(kind) = class else { return self.note_slice(class, nal) };
        let Some(known) = self.sets.get_mut(kind) else { return false };
        let bit = 1 << kind;
        if self.unit.sets & bit == 0 {
            self.unit.sets |= bit;
            // The usual case: the same ones again, and nothing to allocate.
            if known.len() == 1 && known[0] == nal {
                return false;
            }
            known.clear();
        }
        if nal.len() <= MAX_SET && known.len() < MAX_SETS && !known.iter().any(|set| set == nal) {
            known.push(nal.to_vec());
        }
        false
    }

    /// Takes note of a slice by its start. `true`: parameter sets must go before it.
    fn note_slice(&mut self, class: Class, nal: &[u8]) -> bool {
        self.unit.slice |= matches!(class, Class::Key | Class::Slice);
        if class == Class::Slice && !self.b_frames {
            self.b_frames = C::is_b_slice(nal);
        }
        if class != Class::Key {
            return false;
        }
        self.unit.key = true;
        self.unit.sets.count_ones() as usize != C::SETS
    }

    fn send_sets(&mut self, out: &mut dyn FnMut(bool, &[u8])) {
        let sets = || self.sets.iter().flatten();
        let size = C::AGGREGATE_HEADER.len() + sets().map(|set| 2 + set.len()).sum::<usize>();
        if sets().count() > 1 && size <= MAX_PAYLOAD {
            self.scratch.clear();
            self.scratch.extend_from_slice(C::AGGREGATE_HEADER);
            for set in self.sets.iter().flatten() {
                self.scratch.extend_from_slice(&(set.len() as u16).to_be_bytes());
                self.scratch.extend_from_slice(set);
            }
            out(false, &self.scratch);
        } else {
            for set in self.sets.iter().flatten() {
                send_nal::<C>(&mut self.scratch, set, false, out);
            }
        }
    }

    fn send(&mut self, payload: &[u8], nal_type: u8, marker: bool, out: &mut dyn FnMut(bool, &[u8])) {
        if payload.len() <= MAX_PAYLOAD {
            return out(marker, payload);
        }
        let scratch = &mut self.scratch;
        if nal_type == C::AGGREGATE {
            let mut nals = Aggregate::<C>::new(payload).flatten().peekable();
            while let Some(nal) = nals.next() {
                send_nal::<C>(scratch, nal, marker && nals.peek().is_none(), out);
            }
        } else if nal_type == C::FRAGMENT {
            let bits = payload[C::HEADER] & (START | END);
            let header = C::fragment_header(&C::nal_header(payload)[..C::HEADER]);
            send_fragments::<C>(scratch, header, bits, &payload[C::HEADER + 1..], marker, out);
        } else {
            send_nal::<C>(scratch, payload, marker, out);
        }
    }
}

/// A whole NAL unit, in fragments if it is too long.
fn send_nal<C: NalCodec>(scratch: &mut Vec<u8>, nal: &[u8], marker: bool, out: &mut dyn FnMut(bool, &[u8])) {
    if nal.len() <= MAX_PAYLOAD {
        return out(marker, nal);
    }
    let (nal_header, rest) = nal.split_at(C::HEADER);
    send_fragments::<C>(scratch, C::fragment_header(nal_header), START | END, rest, marker, out);
}

/// `bits`: whether `rest` has the NAL unit's start and its end.
fn send_fragments<C: NalCodec>(
    scratch: &mut Vec<u8>,
    header: [u8; 3],
    bits: u8,
    rest: &[u8],
    marker: bool,
    out: &mut dyn FnMut(bool, &[u8]),
) {
    let header_len = C::HEADER + 1;
    // Equal parts: a short last one would cost a packet's overhead all the same.
    let parts = rest.len().div_ceil(MAX_PAYLOAD - header_len).max(1);
    let size = rest.len().div_ceil(parts).max(1);
    let mut chunks = rest.chunks(size).peekable();
    let mut start = bits & START;
    while let Some(chunk) = chunks.next() {
        let last = chunks.peek().is_none();
        scratch.clear();
        scratch.extend_from_slice(&header[..header_len]);
        scratch[C::HEADER] |= start | if last { bits & END } else { 0 };
        scratch.extend_from_slice(chunk);
        out(marker && last, scratch);
        start = 0;
    }
}

/// NAL units of an aggregate; `None` where it is cut off.
pub(crate) struct Aggregate<'a, C> {
    rest: &'a [u8],
    codec: std::marker::PhantomData<C>,
}

impl<'a, C: NalCodec> Aggregate<'a, C> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload.get(C::HEADER..).unwrap_or_default(), codec: std::marker::PhantomData }
    }
}

impl<'a, C: NalCodec> Iterator for Aggregate<'a, C> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let nal = rest.split_first_chunk().and_then(|(len, rest)| {
            let (nal, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            self.rest = rest;
            (nal.len() > C::HEADER).then_some(nal)
        });
        Some(nal)
    }
}
