//! Slot allocator of a map whose entries userspace hands out.

use std::collections::VecDeque;

use penstock_media::prefetch::prefetch;

/// Most slots of a table: a handle holds the slot in its low 16 bits.
pub const MAX_SLOTS: usize = 1 << 16;

/// Values by slot.
///
/// A handle is the slot number and, above it, a generation of 15 bits that changes with every reuse:
/// a late call or event for a former occupant can never hit the new one. The slot that was freed
/// longest ago is reused first. A slot that was never taken is taken, and has memory, only when none
/// is free below it: so what a table holds decides its size, and the limit does not.
pub struct Slots<T> {
    entries: Vec<(u16, Option<T>)>,
    free: VecDeque<u16>,
    limit: usize,
    /// Set in every handle of this table.
    mark: u32,
}

/// In the handles of the userspace engine, so that they and the kernel engine's never meet.
pub(crate) const USERSPACE: u32 = 1 << 31;

impl<T> Slots<T> {
    /// A table of `limit` slots (at most [`MAX_SLOTS`]).
    pub fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), free: VecDeque::new(), limit: limit.min(MAX_SLOTS), mark: 0 }
    }

    /// The same, with handles of the userspace engine.
    pub fn userspace(limit: usize) -> Self {
        Self { mark: USERSPACE, ..Self::new(limit) }
    }

    /// The map index that a handle stands for.
    pub const fn slot(handle: u32) -> u32 {
        handle & 0xffff
    }

    /// Takes a slot; gives the value back if none is free.
    pub fn insert(&mut self, value: T) -> Result<u32, T> {
        let Some(slot) = self.free.pop_front() else {
            let slot = self.entries.len();
            if slot == self.limit {
                return Err(value);
            }
            self.entries.push((0, Some(value)));
            return Ok(self.mark | slot as u32);
        };
        let entry = &mut self.entries[usize::from(slot)];
        entry.1 = Some(value);
        Ok(self.mark | u32::from(entry.0) << 16 | u32::from(slot))
    }

    pub fn get(&self, handle: u32) -> Option<&T> {
        let (generation, value) = self.entries.get(Self::slot(handle) as usize)?;
        value.as_ref().filter(|_| self.mark | u32::from(*generation) << 16 == handle & 0xffff_0000)
    }

    /// Asks for the memory of what a handle names, if anything.
    pub fn prefetch(&self, handle: u32) {
        if let Some(entry) = self.entries.get(Self::slot(handle) as usize) {
            prefetch(entry);
        }
    }

    pub fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        let mark = self.mark;
        let (generation, value) = self.entries.get_mut(Self::slot(handle) as usize)?;
        value.as_mut().filter(|_| mark | u32::from(*generation) << 16 == handle & 0xffff_0000)
    }

    /// Frees a slot. Nothing in the kernel may refer to it any more.
    pub fn remove(&mut self, handle: u32) -> Option<T> {
        self.get(handle)?;
        let entry = &mut self.entries[Self::slot(handle) as usize];
        // 15 bits: the highest one is the mark.
        entry.0 = (entry.0 + 1) & 0x7fff;
        self.free.push_back(Self::slot(handle) as u16);
        entry.1.take()
    }

    /// The slot that was never taken, if it is the next one.
    pub fn untouched(&self) -> Option<usize> {
        Some(self.entries.len()).filter(|slot| self.free.is_empty() && *slot < self.limit)
    }

    /// What the taken slots hold.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_ref())
    }

    /// The same, with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let handle = |slot: usize, generation: u16| self.mark | u32::from(generation) << 16 | slot as u32;
        let all = self.entries.iter().enumerate();
        all.filter_map(move |(slot, (generation, value))| Some((handle(slot, *generation), value.as_ref()?)))
    }

    /// All slots.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_former_handle_never_names_the_next_occupant() {
        let mut slots = Slots::new(1);
        let first = slots.insert("first").unwrap();
        assert_eq!(slots.insert("no room"), Err("no room"));
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").unwrap();
        assert_eq!(Slots::<&str>::slot(first), Slots::<&str>::slot(second));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(second, &"second")]);
    }

    #[test]
    fn freed_slots_are_taken_before_new_ones() {
        let mut slots = Slots::new(1 << 16);
        let handles: Vec<u32> = (0..2).map(|n| slots.insert(n).unwrap()).collect();
        slots.remove(handles[0]);
        let numbers: Vec<u32> = (2..4).map(|n| Slots::<i32>::slot(slots.insert(n).unwrap())).collect();
        assert_eq!((numbers, slots.entries.len(), slots.limit()), (vec![0, 2], 3, 1 << 16));
    }

    #[test]
    fn the_slot_freed_longest_ago_is_reused_first() {
        let mut slots = Slots::new(3);
        let handles: Vec<u32> = (0..3).map(|n| slots.insert(n).unwrap()).collect();
        slots.remove(handles[2]);
        slots.remove(handles[0]);
        assert_eq!(Slots::<i32>::slot(slots.insert(9).unwrap()), 2);
    }
}
