//! NAL units that come in fragments (FU-A, RFC 6184 §5.8; FU, RFC 7798 §4.4.3). Fragments of slices pass one by one;
//! anything else is joined first, since some sources put a whole access unit, start codes and all, into one.

use super::{
    Class, NalCodec, Repacker, annexb,
    annexb::Split,
    cut::{END, Part, START, send_fragments, send_nal},
};
use crate::{
    Incoming, MAX_PAYLOAD, Unfit,
    frames::{Frames, Out},
};

/// A unit that is joined.
const MAX_JOINED: usize = 2 << 20;
/// Memory that is kept for the next one.
const KEPT: usize = 64 << 10;

/// What becomes of the fragments that come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No unit is begun.
    #[default]
    None,
    /// They leave one by one.
    Passing,
    /// They are joined.
    Joining,
    /// The unit is dropped.
    Dropping(Unfit),
}

/// The unit whose fragments come.
#[derive(Debug)]
pub(crate) struct Fragment {
    state: State,
    /// Its header.
    header: [u8; 2],
    /// Timestamp and marker of its last fragment.
    timestamp: u32,
    marked: bool,
    /// Some fragment had a start or end bit: there, units begin and end.
    has_bits: bool,
    /// A begin may be among what is lost: fragments that come without one are of no use.
    orphans: bool,
    /// Zeros at the end of the last fragment, where start codes are looked for.
    zeros: usize,
    joined: Vec<u8>,
}

impl Fragment {
    pub(super) fn new() -> Self {
        Self {
            state: State::None,
            header: [0; 2],
            timestamp: 0,
            marked: false,
            has_bits: false,
            orphans: true,
            zeros: 0,
            joined: vec![],
        }
    }

    /// Packets are missing.
    pub(crate) fn lose_begin(&mut self) {
        (self.state, self.orphans) = (State::None, true);
        self.joined.clear();
    }

    /// Whether a fragment begins a unit, whatever its start bit says.
    fn is_begun_by(&self, start: bool, header: [u8; 2], packet: &Incoming<'_>) -> bool {
        let another_frame = !self.has_bits && self.marked && packet.timestamp != self.timestamp;
        start
            || another_frame
            || match self.state {
                State::None => !self.orphans,
                _ => header != self.header,
            }
    }
}

impl<C: NalCodec> Repacker<C> {
    /// `numbered`: a decoding order number stands in the first one (FU-B).
    pub(super) fn fragment(
        &mut self,
        packet: &Incoming<'_>,
        numbered: bool,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let payload = packet.payload;
        let bits = payload.get(C::HEADER).ok_or(Unfit::Malformed)? & (START | END);
        let data = payload.get(C::HEADER + if numbered { 3 } else { 1 }..).ok_or(Unfit::Malformed)?;
        if data.is_empty() {
            if bits & END != 0 {
                self.end_fragment(frames, out);
            }
            return Err(Unfit::Empty);
        }
        let header = C::nal_header(payload);
        self.fragment.has_bits |= bits != 0;
        let start = self.fragment.is_begun_by(bits & START != 0, header, packet);
        if start {
            self.end_fragment(frames, out);
            self.begin_fragment(header, data, packet, frames, out);
        }
        (self.fragment.marked, self.fragment.timestamp) = (packet.marker, packet.timestamp);
        let bits = bits & END | if start { START } else { 0 };
        let result = match self.fragment.state {
            State::None => Err(Unfit::Orphan),
            State::Dropping(why) => Err(why),
            State::Joining => self.join(data, frames, out, packet, bits & END != 0),
            State::Passing => self.pass_fragment(bits, data, numbered, packet, frames, out),
        };
        if bits & END != 0 && self.fragment.state != State::None {
            self.fragment.state = State::None;
        }
        result
    }

    fn begin_fragment(
        &mut self,
        header: [u8; 2],
        data: &[u8],
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) {
        (self.fragment.header, self.fragment.zeros) = (header, 0);
        let class = C::class(C::nal_type(&header));
        self.fragment.state = match class {
            Class::Invalid => State::Dropping(Unfit::Unsupported),
            Class::Key | Class::Slice if !self.start_codes => {
                let mut begin = [0; 16];
                let len = C::HEADER + data.len().min(begin.len() - C::HEADER);
                begin[..C::HEADER].copy_from_slice(&header[..C::HEADER]);
                begin[C::HEADER..len].copy_from_slice(&data[..len - C::HEADER]);
                match self.slice(class, &begin[..len], packet, frames, out) {
                    Ok(()) => State::Passing,
                    Err(why) => State::Dropping(why),
                }
            }
            _ => {
                self.fragment.joined.clear();
                self.fragment.joined.extend_from_slice(&header[..C::HEADER]);
                State::Joining
            }
        };
    }

    /// A slice's fragment, as it came if it can be.
    fn pass_fragment(
        &mut self,
        bits: u8,
        data: &[u8],
        numbered: bool,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let (header, end) = (self.fragment.header, bits & END != 0);
        let class = C::class(C::nal_type(&header));
        let marker = packet.marker && end;
        if self.scans(class, frames) {
            let before = self.fragment.zeros;
            let zeros = data.iter().rev().take_while(|byte| **byte == 0).count();
            self.fragment.zeros = if zeros == data.len() { before + zeros } else { zeros };
            if let Some((unit, rest)) = annexb::find_behind::<C>(before, data) {
                return self.divide(bits, data, (unit, rest), packet, frames, out);
            }
        }
        let as_it_came = packet.payload[C::HEADER] & (START | END) == bits && !numbered;
        if bits == START | END {
            let nal = [&header[..C::HEADER], data].concat();
            send_nal::<C>(&mut self.scratch, &nal, marker, frames, out);
        } else if as_it_came && packet.payload.len() <= MAX_PAYLOAD {
            frames.push(packet.payload, marker, out);
        } else {
            let part = Part { header: C::fragment_header(&header), bits, rest: data, marker };
            send_fragments::<C>(&mut self.scratch, &part, frames, out);
        }
        Ok(())
    }

    /// A slice ends inside a fragment, and another unit begins.
    fn divide(
        &mut self,
        bits: u8,
        data: &[u8],
        (unit, rest): (usize, usize),
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        self.start_codes = true;
        // A fragment has some byte, and a zero behind a unit means nothing.
        let end = if unit == 0 { &[0][..] } else { &data[..unit] };
        let header = C::fragment_header(&self.fragment.header);
        let part = Part { header, bits: bits & START | END, rest: end, marker: false };
        send_fragments::<C>(&mut self.scratch, &part, frames, out);
        self.fragment.joined.clear();
        self.fragment.state = State::Joining;
        self.join(&data[rest..], frames, out, packet, bits & END != 0)
    }

    fn join(
        &mut self,
        data: &[u8],
        frames: &mut Frames,
        out: &mut Out<'_>,
        packet: &Incoming<'_>,
        end: bool,
    ) -> Result<(), Unfit> {
        if self.fragment.joined.len() + data.len() > MAX_JOINED {
            self.fragment.joined = vec![];
            self.fragment.state = State::Dropping(Unfit::TooLong);
            return Err(Unfit::TooLong);
        }
        self.fragment.joined.extend_from_slice(data);
        if end { self.send_joined(packet, frames, out) } else { Ok(()) }
    }

    /// What was joined, unit by unit.
    fn send_joined(&mut self, packet: &Incoming<'_>, frames: &mut Frames, out: &mut Out<'_>) -> Result<(), Unfit> {
        self.fragment.state = State::None;
        let mut joined = std::mem::take(&mut self.fragment.joined);
        let result = self.each(Split::<C>::new(&joined), packet, frames, out);
        if joined.capacity() <= KEPT {
            joined.clear();
            self.fragment.joined = joined;
        }
        result
    }

    /// A unit has ended, although no end bit said so.
    pub(super) fn end_fragment(&mut self, frames: &mut Frames, out: &mut Out<'_>) {
        self.fragment.orphans = false;
        match std::mem::take(&mut self.fragment.state) {
            State::None | State::Dropping(_) => {}
            State::Joining => {
                let Fragment { timestamp, marked: marker, .. } = self.fragment;
                let packet = Incoming { timestamp, marker, payload: &[], lost: false };
                let joined = self.send_joined(&packet, frames, out);
                self.bad += u64::from(joined.is_err());
            }
            State::Passing => match frames.held_mut() {
                Some(held) => {
                    if let Some(bits) = held.get_mut(C::HEADER) {
                        *bits |= END;
                    }
                }
                None => {
                    // A zero behind a unit means nothing.
                    let header = C::fragment_header(&self.fragment.header);
                    let part = Part { header, bits: END, rest: &[0], marker: self.fragment.marked };
                    send_fragments::<C>(&mut self.scratch, &part, frames, out);
                }
            },
        }
    }
}
