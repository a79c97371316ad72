//! What the userspace engine's XDP transmitter shares with its two programs.
//!
//! Userspace writes finished frames into `FRAMES`, which it has mapped, lists up to [`BATCH`] of them
//! in a [`Trigger`], and sends one packet with the trigger's ticket over a veth pair of its own. There
//! `penstock_trigger` broadcasts that packet, once per frame, and for each clone `penstock_transmit`
//! puts the next listed frame in its place, just before the device takes it.
//!
//! | map | type | key → value | writer | reader |
//! | --- | --- | --- | --- | --- |
//! | `FRAMES` | array | frame number → [`OutFrame`] | userspace | `penstock_transmit` |
//! | `TRIGGERS` | array | trigger number → [`Trigger`] | userspace; `cursor`, `done`, `reported`, `refused`: the programs | both |
//! | `BULKS` | per-CPU array | 0 → [`Bulk`] | the programs | the programs |
//! | `DEVICE_SETS` | array of maps | set → devmap of so many times one device | userspace | `penstock_trigger` |
//! | `COUNTERS` | per-CPU array | [`crate::Counter`] → `u64` | the programs | userspace |
//!
//! Why no half-written frame leaves the machine: userspace writes a frame only when the trigger that
//! listed it has counted all its frames as done, or after it has given that trigger up. In the second
//! case a program may still come for the frame. So each frame carries the ticket of its trigger, which
//! is taken away before the frame is written and set when it is finished; the program compares it
//! before and after it has copied the frame, and drops the copy if it has changed.
//!
//! Why no frame is lost to a full ring: a device takes the first so many of a bulk, and the kernel
//! says how many ("xdp_devmap_xmit"). So the programs know which frames were refused, mark them in
//! their trigger, and userspace sends these again, as they are: the same bytes under the same index.

use core::sync::atomic::AtomicU64;

/// Frames that one trigger may send: half of a veth ring, which holds 256.
pub const BATCH: usize = 128;

/// Bytes of a frame: Ethernet, VLAN, IPv6, UDP, RTP header, the largest payload and a tag take 1,494.
pub const FRAME_ROOM: usize = 1520;

/// The trigger's number in its ticket: the low bits. Above them a count that never comes again.
pub const TICKET_NUMBER_BITS: u32 = 16;

/// EtherType of the packets that carry a ticket (IEEE 802 local experimental 1).
pub const ETHERTYPE: u16 = 0x88b5;

/// Where such a packet carries its ticket.
pub const TICKET_OFFSET: usize = 16;

/// A finished frame. 1,536 bytes.
#[repr(C)]
pub struct OutFrame {
    /// Of the trigger that sends it; 0 while it is written.
    pub ticket: AtomicU64,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Padding, so that `bytes` begins at 16; 0.
    pub reserved: u32,
    /// From the Ethernet header to the SRTP tag; behind `len` lies an older frame.
    pub bytes: [u8; FRAME_ROOM],
}

/// Frames that leave together. 568 bytes.
#[repr(C)]
pub struct Trigger {
    /// 0: given up, or not in use.
    pub ticket: AtomicU64,
    /// Frames that have been copied.
    pub done: AtomicU64,
    /// Of these, frames of which the device has said whether it took them.
    pub reported: AtomicU64,
    /// Of these, a bit for each place in `frames` that it has refused.
    pub refused: [AtomicU64; BATCH / 64],
    /// The place in `DEVICE_SETS` whose devmap has `len` entries.
    pub set: u32,
    /// Number of frames, at most [`BATCH`].
    pub len: u32,
    /// Next of `frames`. Written by the programs of one CPU, one after the other.
    pub cursor: u32,
    /// Padding up to `frames`; 0.
    pub reserved: u32,
    /// Numbers in `FRAMES`.
    pub frames: [u32; BATCH],
}

/// Copies that wait in a device's queue for the end of its bulk, in their order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bulk {
    /// Copies in use, at most [`BULK`]; 0 when the device has reported.
    pub len: u32,
    /// Padding up to `copies`; 0.
    pub reserved: u32,
    /// The first `len` count, in the order in which the device takes them.
    pub copies: [Copied; BULK],
}

/// One of them: its trigger's ticket, and its place in the trigger's list.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copied {
    /// Tells a trigger from a later one with the same number.
    pub ticket: u64,
    /// Below [`BATCH`]; a bit of [`Trigger::refused`].
    pub place: u64,
}

/// Frames that devmap hands to a device at once (`DEV_MAP_BULK_SIZE`).
pub const BULK: usize = 16;

/// Numbers of frames for which there is a devmap: with two of them every number up to [`BATCH`] is put
/// together.
pub const SIZES: [u32; 30] = {
    let mut sizes = [0; 30];
    let mut at = 0;
    while at < sizes.len() {
        // 1, 2, … 16, 24, 32, … 128.
        sizes[at] = if at < 16 { at as u32 + 1 } else { 8 * (at as u32 - 13) };
        at += 1;
    }
    sizes
};

/// The largest of [`SIZES`] that is not above `frames`, by its place.
pub fn size_for(frames: usize) -> Option<usize> {
    SIZES.iter().rposition(|size| *size as usize <= frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!((size_of::<OutFrame>(), size_of::<Trigger>()), (1536, 568));
    }

    #[test]
    fn two_sizes_make_every_number() {
        assert_eq!((SIZES[0], SIZES[15], SIZES[16], SIZES[29]), (1, 16, 24, 128));
        for frames in 1..=BATCH {
            let first = SIZES[size_for(frames).unwrap()] as usize;
            let rest = size_for(frames - first).map_or(0, |place| SIZES[place] as usize);
            assert_eq!(first + rest, frames);
        }
        assert_eq!(size_for(0), None);
    }
}
