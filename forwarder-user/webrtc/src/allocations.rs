//! What the tests' allocator counts, for tests of what foreign input costs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local!(static COUNTED: Cell<(usize, usize)> = const { Cell::new((0, 0)) });

/// The system's allocator, with a count of what each thread asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(bytes: usize) {
    // A thread that ends has no counter any more.
    let _ = COUNTED.try_with(|counted| counted.set((counted.get().0 + 1, counted.get().1 + bytes)));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Allocations of this thread and their bytes, in all, while `work` runs; what is freed again counts too.
pub(crate) fn count<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let (allocations, bytes) = COUNTED.with(Cell::get);
    let done = work();
    let (after, bytes_after) = COUNTED.with(Cell::get);
    (done, after - allocations, bytes_after - bytes)
}

/// Numbers for tests that try much: the same in each run.
pub(crate) struct Seeded(pub u64);

impl Seeded {
    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// Bytes with some of them changed, some gone, some twice.
    pub(crate) fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(6) {
            let (from, len) = (self.below(bytes.len()), self.below(40));
            let to = (from + len).min(bytes.len());
            match self.below(4) {
                0 if from < bytes.len() => bytes[from] = self.below(256) as u8,
                1 => drop(bytes.drain(from..to)),
                2 => {
                    let piece = bytes[from..to].to_vec();
                    let at = self.below(bytes.len() + 1);
                    drop(bytes.splice(at..at, piece));
                }
                _ => bytes.truncate(bytes.len() - self.below(bytes.len().min(60) + 1)),
            }
        }
        bytes
    }
}
