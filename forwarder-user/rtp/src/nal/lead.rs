//! What stands before the first slice of an access unit: delimiters, parameter sets, SEI. Some sources stamp it
//! otherwise than the slices, so it waits for them.

/// All of it together. More than any encoder needs.
const MAX_BYTES: usize = 16 << 10;
const MAX_ITEMS: usize = 64;
/// Memory that is kept for the next time.
const KEPT: usize = 2048;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lead {
    bytes: Vec<u8>,
    /// Where each payload ends.
    ends: Vec<usize>,
    /// Bit by kind of parameter set.
    pub sets: u8,
}

impl Lead {
    /// Keeps a payload as it will leave. `false`: it is one too many.
    pub(crate) fn push(&mut self, payload: &[u8]) -> bool {
        if self.bytes.len() + payload.len() > MAX_BYTES || self.ends.len() >= MAX_ITEMS {
            return false;
        }
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The payloads in their order.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).filter_map(|(begin, end)| self.bytes.get(begin..*end))
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.sets = 0;
        if self.bytes.capacity() > KEPT {
            self.bytes = vec![];
        }
    }
}
