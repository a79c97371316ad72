//! NAL units of an aggregate (STAP-A, RFC 6184 §5.7.1; AP, RFC 7798 §4.4.2).

use super::{Class, NalCodec, Repacker, annexb::Split};
use crate::{
    Incoming, MAX_PAYLOAD, Unfit,
    frames::{Frames, Out},
};

/// What stands in an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Unit(&'a [u8]),
    /// A length that says nothing: zeros behind the last unit.
    Nothing,
    /// Cut off, or shorter than its header.
    Bad,
}

/// The parts of an aggregate, one by one.
pub(crate) struct Aggregate<'a, C> {
    rest: &'a [u8],
    codec: std::marker::PhantomData<C>,
}

impl<'a, C: NalCodec> Aggregate<'a, C> {
    /// `payload` without what stands in front of the first length.
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest, codec: std::marker::PhantomData }
    }

    /// All units that are whole.
    pub(crate) fn units(self) -> impl Iterator<Item = &'a [u8]> {
        self.filter_map(|part| match part {
            Part::Unit(unit) => Some(unit),
            Part::Nothing | Part::Bad => None,
        })
    }
}

impl<'a, C: NalCodec> Iterator for Aggregate<'a, C> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let Some((len, behind)) = rest.split_first_chunk() else {
            return match rest {
                [] => None,
                [0] => Some(Part::Nothing),
                _ => Some(Part::Bad),
            };
        };
        let Some((unit, behind)) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len))) else {
            return Some(Part::Bad);
        };
        self.rest = behind;
        Some(match unit.len() {
            0 => Part::Nothing,
            len if len < C::HEADER => Part::Bad,
            _ => Part::Unit(unit),
        })
    }
}

impl<C: NalCodec> Repacker<C> {
    /// `numbered`: a decoding order number stands in front of the first (STAP-B).
    pub(super) fn aggregate(
        &mut self,
        packet: &Incoming<'_>,
        numbered: bool,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        let begin = C::HEADER + if numbered { 2 } else { 0 };
        let rest = packet.payload.get(begin..).ok_or(Unfit::Malformed)?;
        let (mut fine, mut pictures, mut slice) = (!numbered && packet.payload.len() <= MAX_PAYLOAD, 0, None);
        let (mut cut_off, mut units) = (0, 0);
        for part in Aggregate::<C>::new(rest) {
            let Part::Unit(unit) = part else {
                cut_off += u64::from(part == Part::Bad);
                fine = false;
                continue;
            };
            units += 1;
            let class = C::class(C::nal_type(unit));
            fine &= class != Class::Invalid && !self.has_start_code(class, unit, frames);
            if matches!(class, Class::Key | Class::Slice) {
                pictures += u32::from(C::begin(unit).first);
                slice = slice.or(Some((class, unit)));
            }
        }
        self.bad += cut_off;
        if fine && pictures <= 1 && units > 0 {
            return self.pass(rest, slice, packet, frames, out);
        }
        let parts = Aggregate::<C>::new(rest).units().flat_map(|unit| {
            // A nested one is nobody's, and what it holds is no worse for it.
            let nested = C::nal_type(unit) == C::AGGREGATE;
            let inner = Aggregate::<C>::new(unit.get(C::HEADER..).filter(|_| nested).unwrap_or_default()).units();
            let split = Split::<C>::new(if nested { &[] } else { unit });
            inner.chain(split)
        });
        self.each(parts, packet, frames, out)
    }

    /// An aggregate that is right, as it came.
    fn pass(
        &mut self,
        units: &[u8],
        slice: Option<(Class, &[u8])>,
        packet: &Incoming<'_>,
        frames: &mut Frames,
        out: &mut Out<'_>,
    ) -> Result<(), Unfit> {
        for unit in Aggregate::<C>::new(units).units() {
            if let Some(kind) = C::set_kind(unit) {
                self.sets.note(kind, unit, &mut self.lead.sets);
            }
        }
        let Some((class, unit)) = slice else { return self.wait(packet.payload, packet.marker, packet, frames, out) };
        self.slice(class, unit, packet, frames, out)?;
        frames.push(packet.payload, packet.marker, out);
        Ok(())
    }
}
