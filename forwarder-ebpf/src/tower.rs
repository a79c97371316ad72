//! GHASH by rows of the packet, shared by all its copies: `forwarder_common::tower`.
//!
//! Ingress spreads the plaintext once. Then the tag of the packet itself, if its keystream was there,
//! and the tags of all copies that have theirs, are sums over these rows. Short packets and those with
//! few copies do without: spreading costs more than it saves (decision 11).

use forwarder_common::{
    gf128::{self, Block},
    keystream::{Entry, FAST_PAYLOAD},
    maps::{ROWS_SLOTS, Rows},
    rtp::{FIXED_LEN, TAG_LEN},
    tower::{self, COLUMNS, GROUP, KeyTable, ROWS as TABLE_ROWS},
};

use crate::{
    gcm::{Layout, Sealed},
    maps::{self, ROWS, ROWS_NUMBER, TOWER_TABLES, TOWER_WORK},
    packet::Frame,
    walk::{Step, each, inside, share, xor},
};

/// Whether a packet with so many copies gets rows.
#[inline(always)]
pub fn wanted(copies: usize, payload_len: usize) -> bool {
    copies * payload_len.div_ceil(TAG_LEN) >= TOWER_WORK.load() as usize && payload_len <= FAST_PAYLOAD
}

/// Whether a packet with so long a header can be opened by rows.
#[inline(always)]
pub fn fits(header_len: usize, payload_len: usize) -> bool {
    header_len.div_ceil(TAG_LEN) + payload_len.div_ceil(TAG_LEN) < TABLE_ROWS
}

/// Rows of the packet that this CPU opens, to be filled.
#[derive(Clone, Copy)]
pub struct Draft {
    rows: *mut Rows,
    number: *mut u64,
}

impl Draft {
    /// The rows that lay here before are nobody's from now on.
    #[inline(always)]
    pub fn begin() -> Option<Self> {
        let number = ROWS_NUMBER.get_ptr_mut(0)?;
        // SAFETY: this CPU's own number; programs of one CPU do not interleave.
        let next = unsafe { *number } + 1;
        let rows = ROWS.get_ptr_mut(slot(next))?;
        // SAFETY: this CPU's own slot. Copies that still want it find it without a number.
        unsafe { (*rows).number = 0 };
        Some(Self { rows, number })
    }

    /// The packet is authentic: its copies may have the rows. Returns their number.
    #[inline(always)]
    pub fn publish(self) -> u64 {
        // SAFETY: as in `begin`.
        unsafe {
            let next = *self.number + 1;
            *self.number = next;
            (*self.rows).number = next;
            next
        }
    }

    /// Spreads the plaintext. `None`: the frame is too short.
    #[inline(always)]
    pub fn fill(&self, frame: &Frame, offset: usize, len: usize) -> Option<()> {
        let mut walk = Fill { frame: *frame, rows: self.rows, offset, len, failed: 0 };
        let blocks = len.div_ceil(TAG_LEN);
        let lengths = gf128::lengths(FIXED_LEN as u64, len as u64);
        each(&mut walk, GROUP, clear as Step<Fill>);
        each(&mut walk, blocks, spread as Step<Fill>);
        tower_spread(self.rows, lengths[0], lengths[1], 0);
        (walk.failed == 0).then_some(())
    }

    /// Decrypts in place and spreads. Says whether the tag was right; `None` if the layout exceeds the
    /// frame, or the rows.
    #[inline(always)]
    pub fn open(&self, frame: &Frame, session: u32, entry: &'static Entry, layout: Layout) -> Option<bool> {
        let offset = layout.aad_offset + layout.aad_len;
        let expected: Block = frame.read(offset + layout.payload_len)?;
        xor::<false, false>(frame, entry, entry, offset, layout.payload_len)?;
        self.fill(frame, offset, layout.payload_len)?;
        let tower = Tower { rows: self.rows, key: maps::tower(session)? };
        let blocks = layout.payload_len.div_ceil(TAG_LEN);
        tower_total(tower.rows, tower.key, tower::groups(blocks) as u64);
        let mut walk =
            Absorb { frame: *frame, tower, offset: layout.aad_offset, len: layout.aad_len, blocks, failed: 0 };
        each(&mut walk, layout.aad_len.div_ceil(TAG_LEN), absorb as Step<Absorb>);
        if walk.failed != 0 {
            return None;
        }
        if layout.aad_len != FIXED_LEN {
            // Row 0 holds the lengths of the copies, whose header is the fixed one.
            let other = gf128::lengths(layout.aad_len as u64, 0)[0] ^ gf128::lengths(FIXED_LEN as u64, 0)[0];
            tower_product(tower.rows, tower.key, other, 0, 0);
        }
        let tag = finish(frame, &tower, entry, frame.forget(layout.payload_len))?;
        Some((tag[0] ^ expected[0]) | (tag[1] ^ expected[1]) == 0)
    }
}

/// Rows of a packet and the key of one of its tags.
#[derive(Clone, Copy)]
pub struct Tower {
    rows: *mut Rows,
    key: &'static KeyTable,
}

impl Tower {
    /// For a copy of a packet that has left its rows under `number`. `None`: it has none, or later
    /// packets have taken their place.
    #[inline(always)]
    pub fn of(number: u64, session: u32) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let rows = ROWS.get_ptr_mut(slot(number))?;
        // SAFETY: this CPU's own slot: copies are made on the CPU on which their packet came.
        if unsafe { (*rows).number } != number {
            return None;
        }
        Some(Self { rows, key: maps::tower(session)? })
    }

    /// Encrypts a copy with the RTP header `rtp` in place and writes its tag. `None`: the frame is too
    /// short. The checksum is computed where `sum` says so.
    #[inline(always)]
    pub fn seal(
        &self,
        frame: &Frame,
        entry: &'static Entry,
        rtp: [u32; 3],
        layout: Layout,
        sum: bool,
    ) -> Option<Sealed> {
        let offset = layout.aad_offset + layout.aad_len;
        let len = layout.payload_len;
        let blocks = len.div_ceil(TAG_LEN);
        let sum = match sum {
            true => xor::<true, false>(frame, entry, entry, offset, len)?,
            false => xor::<false, false>(frame, entry, entry, offset, len)?,
        };
        tower_total(self.rows, self.key, tower::groups(blocks) as u64);
        let header = u64::from(rtp[0]) | u64::from(rtp[1]) << 32;
        tower_product(self.rows, self.key, header, rtp[2].into(), blocks as u64 + 1);
        let tag = finish(frame, self, entry, frame.forget(len))?;
        frame.write(offset + len, tag)?;
        Some(Sealed { tag, sum })
    }
}

/// Slot of `ROWS` that the rows with this number use.
#[inline(always)]
fn slot(number: u64) -> u32 {
    number as u32 & (ROWS_SLOTS as u32 - 1)
}

/// Adds the keystream's share, and makes the sum a tag.
#[inline(always)]
fn finish(frame: &Frame, tower: &Tower, entry: &Entry, len: usize) -> Option<Block> {
    share(
        entry,
        len,
        |first| frame.forget(first),
        |row, block| {
            tower_product(tower.rows, tower.key, block[0], block[1], row as u64);
        },
    )?;
    tower_gather(tower.rows);
    // SAFETY: this CPU's own rows.
    let total = unsafe { &(*tower.rows).total };
    Some([total[0] ^ entry.mask[0], total[1] ^ entry.mask[1]])
}

// The functions below are global to the verifier, as those of `gcm` are.

/// Sum over the packet's first `groups` of rows, for one key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tower_total(rows: *mut Rows, key: *const KeyTable, groups: u64) -> u32 {
    // SAFETY: the callers pass values of maps; the rows are this CPU's.
    let (Some(rows), Some(key)) = (unsafe { (rows.as_mut(), key.as_ref()) }) else { return 1 };
    let mut column = 0;
    while column < COLUMNS {
        rows.total[column] = tower::sum_column(&key.0[column], &rows.rows.0[column], groups as usize);
        column += 1;
    }
    0
}

/// Adds the product of a block and the power of H in `row` to the sum.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tower_product(rows: *mut Rows, key: *const KeyTable, first: u64, second: u64, row: u64) -> u32 {
    // SAFETY: as above.
    let (Some(rows), Some(key)) = (unsafe { (rows.as_mut(), key.as_ref()) }) else { return 1 };
    let Some(tables) = TOWER_TABLES.get(0) else { return 1 };
    let element = tower::spread(tables, [first, second]);
    tower::add(&mut rows.total, &element, key, row as usize);
    0
}

/// Spreads a block to a row of the packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tower_spread(rows: *mut Rows, first: u64, second: u64, row: u64) -> u32 {
    // SAFETY: as above.
    let Some(rows) = (unsafe { rows.as_mut() }) else { return 1 };
    let Some(tables) = TOWER_TABLES.get(0) else { return 1 };
    tower::put(&mut rows.rows, row as usize, &tower::spread(tables, [first, second]));
    0
}

/// Turns the sum into a block, in its first two words.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tower_gather(rows: *mut Rows) -> u32 {
    // SAFETY: as above.
    let Some(rows) = (unsafe { rows.as_mut() }) else { return 1 };
    let Some(tables) = TOWER_TABLES.get(0) else { return 1 };
    [rows.total[0], rows.total[1]] = tower::gather(tables, &rows.total);
    0
}

/// A walk over a packet's plaintext.
#[repr(C)]
struct Fill {
    frame: Frame,
    rows: *mut Rows,
    offset: usize,
    len: usize,
    /// A block lay outside of the frame.
    failed: u64,
}

/// Clears a row behind the first block: sums are over whole groups.
unsafe extern "C" fn clear(index: u32, walk: *mut Fill) -> i64 {
    // SAFETY: `each` passes its own walk, and the rows are this CPU's.
    let (walk, rows) = unsafe { (&*walk, &mut *(*walk).rows) };
    tower::put(&mut rows.rows, walk.len.div_ceil(TAG_LEN) + 1 + index as usize, &[0; COLUMNS]);
    0
}

/// Spreads a block of plaintext.
unsafe extern "C" fn spread(index: u32, walk: *mut Fill) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let index = index as usize;
    let Some(block) = walk.frame.read::<Block>(walk.offset + index * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    let inside = inside(walk.len, index);
    let row = (walk.len.div_ceil(TAG_LEN) - index) as u64;
    tower_spread(walk.rows, block[0] & inside[0], block[1] & inside[1], row);
    0
}

/// A walk over the additional data.
#[repr(C)]
struct Absorb {
    frame: Frame,
    tower: Tower,
    offset: usize,
    len: usize,
    /// Of payload.
    blocks: usize,
    failed: u64,
}

/// Adds a block of the header.
unsafe extern "C" fn absorb(index: u32, walk: *mut Absorb) -> i64 {
    // SAFETY: `each` passes its own walk.
    let walk = unsafe { &mut *walk };
    let index = index as usize;
    let Some(block) = walk.frame.read::<Block>(walk.offset + index * TAG_LEN) else {
        walk.failed = 1;
        return 1;
    };
    let inside = inside(walk.len, index);
    let row = (walk.blocks + walk.len.div_ceil(TAG_LEN) - index) as u64;
    tower_product(walk.tower.rows, walk.tower.key, block[0] & inside[0], block[1] & inside[1], row);
    0
}
