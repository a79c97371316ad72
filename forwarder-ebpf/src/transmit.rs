//! The programs of the userspace engine's XDP transmitter. The protocol: `forwarder_common::transmit`.
//!
//! An object of its own: it is loaded where the datapath is not, and has none of its keys.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[expect(dead_code, reason = "the datapath reads and changes more of a frame")]
mod packet;
mod xmit;

use core::{ffi::c_void, ptr::addr_of};

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ArrayOfMaps, DevMap, PerCpuArray},
    helpers::generated::{bpf_loop, bpf_xdp_store_bytes},
    macros::{btf_map, raw_tracepoint, xdp},
    programs::{RawTracePointContext, XdpContext},
};
use forwarder_common::{
    atomic,
    transmit::{
        BATCH, BULK, Bulk, Copied, ETHERTYPE, FRAME_ROOM, OutFrame, TICKET_NUMBER_BITS, TICKET_OFFSET, Trigger,
    },
};
use packet::Frame;

/// `BPF_F_MMAPABLE`: userspace writes the values in its own memory.
const MMAPABLE: usize = 0x400;

const _: () = assert!(BULK.is_power_of_two(), "`tell` masks with it");

/// `BPF_F_BROADCAST`.
const BROADCAST: u64 = 8;

#[btf_map]
pub static FRAMES: Array<OutFrame, 256, MMAPABLE> = Array::new();

#[btf_map]
pub static TRIGGERS: Array<Trigger, 32, MMAPABLE> = Array::new();

#[btf_map]
pub static DEVICE_SETS: ArrayOfMaps<DevMap<1>, 240> = ArrayOfMaps::new();

#[btf_map]
pub static BULKS: PerCpuArray<Bulk, 1> = PerCpuArray::new();

mod counters {
    use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
    use forwarder_common::Counter;

    #[btf_map]
    pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();

    /// Adds `n` to this CPU's `counter`.
    #[inline(always)]
    pub fn add(counter: Counter, n: u64) {
        if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own slot, and programs of one CPU do not interleave.
            unsafe { *value += n };
        }
    }
}

/// On the private veth: turns a packet with a ticket into one clone for each frame of its trigger.
#[xdp]
pub fn penstock_trigger(ctx: XdpContext) -> u32 {
    // Whatever else comes by is of no use to anybody: nobody but us can send here.
    broadcast(&Frame::new(&ctx)).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn broadcast(frame: &Frame) -> Option<u32> {
    if frame.read::<[u8; 2]>(12)? != ETHERTYPE.to_be_bytes() {
        return None;
    }
    let trigger = trigger(frame.read(TICKET_OFFSET)?)?;
    // SAFETY: a map value, which userspace does not write before the trigger is done or given up.
    let set = unsafe { (*trigger).set };
    DEVICE_SETS.get(set)?.redirect(0, BROADCAST).ok()
}

/// The trigger of a ticket, if it has not been given up.
#[inline(always)]
fn trigger(ticket: u64) -> Option<*mut Trigger> {
    let number = ticket as u32 & ((1 << TICKET_NUMBER_BITS) - 1);
    let trigger = TRIGGERS.get_ptr_mut(number)?;
    // SAFETY: an aligned number in a map value, changed by atomic operations only.
    let current = unsafe { atomic::load(&*addr_of!((*trigger).ticket)) };
    (current == ticket).then_some(trigger)
}

/// On the way out, once per clone: makes it the next frame of its trigger.
#[xdp(map = "devmap")]
pub fn penstock_transmit(ctx: XdpContext) -> u32 {
    xmit::copy_seen();
    match next_frame(&Frame::new(&ctx)) {
        Some(()) => xdp_action::XDP_PASS,
        None => {
            xmit::copy_dropped();
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn next_frame(frame: &Frame) -> Option<()> {
    let ticket: u64 = frame.read(TICKET_OFFSET)?;
    let trigger = trigger(ticket)?;
    // SAFETY: clones of a packet go through their device's queue on one CPU, one after the other, so
    // nobody else changes the cursor.
    let place = unsafe {
        let place = (*trigger).cursor as usize;
        (*trigger).cursor += 1;
        place
    };
    if place >= BATCH {
        return None;
    }
    // SAFETY: within the list, in a map value.
    let number = unsafe { addr_of!((*trigger).frames[place]).read_volatile() };
    let out: &OutFrame = FRAMES.get(number)?;
    if atomic::load(&out.ticket) != ticket {
        return None;
    }
    // SAFETY: an aligned number in a map value; volatile because userspace may change it under us.
    let len = unsafe { addr_of!(out.len).read_volatile() } as usize;
    // One less, and one more behind the check, as in `tap`: the least length is 1 then, for every verifier.
    let last = frame.forget(len.wrapping_sub(1));
    if last >= FRAME_ROOM {
        return None;
    }
    let len = last + 1;
    frame.adjust_tail(len as i32 - frame.len() as i32)?;
    // SAFETY: the bytes are a map value's, of which the length is within.
    let stored =
        unsafe { bpf_xdp_store_bytes(frame.context(), 0, out.bytes.as_ptr().cast_mut().cast::<c_void>(), len as u32) };
    // A full barrier: the frame has been read when this looks. Userspace takes the ticket away before it
    // writes the frame, so what was read while it wrote is found out here.
    if stored != 0 || !atomic::compare_exchange(&out.ticket, ticket, ticket) {
        return None;
    }
    // SAFETY: an aligned number in a map value, changed here alone while the trigger is in force, on one
    // CPU as the cursor is.
    let done = unsafe { &*addr_of!((*trigger).done) };
    atomic::store(done, atomic::load(done) + 1);
    remember(Copied { ticket, place: place as u64 });
    Some(())
}

/// Adds a copy to those of which the device has still to say whether it takes them.
#[inline(always)]
fn remember(copied: Copied) {
    let Some(bulk) = BULKS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value; programs of one CPU do not interleave.
    unsafe {
        let place = (*bulk).len as usize;
        if place < BULK {
            (*bulk).copies[place] = copied;
            (*bulk).len += 1;
        }
    }
}

/// Tells the triggers of a bulk's copies that the device took the first `sent` of them.
#[inline(always)]
fn report(sent: Option<u32>) {
    let Some(bulk) = BULKS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value, as above.
    let len = unsafe { core::mem::replace(&mut (*bulk).len, 0) };
    let Some(sent) = sent else { return };
    let mut told = Told { len, sent };
    // A loop of the program's own would have the verifier walk every combination of what may become of 16 copies.
    // SAFETY: `tell` is a function of this program with the signature that the helper calls, and `told` outlives the
    // call.
    unsafe { bpf_loop(BULK as u32, tell as *mut c_void, (&raw mut told).cast(), 0) };
}

/// What a device says of a bulk: of so many copies it took the first so many.
struct Told {
    len: u32,
    sent: u32,
}

/// Tells the trigger of one copy of the bulk. Not 0 ends the loop.
unsafe extern "C" fn tell(at: u32, told: *mut Told) -> i64 {
    // SAFETY: what `report` handed to the helper.
    let Told { len, sent } = unsafe { &*told };
    let Some(bulk) = BULKS.get_ptr_mut(0).filter(|_| at < *len) else { return 1 };
    // SAFETY: this CPU's own value, as above.
    let Copied { ticket, place } = unsafe { (*bulk).copies[at as usize & (BULK - 1)] };
    if let Some(trigger) = trigger(ticket) {
        settle(trigger, place as usize, at >= *sent);
    }
    0
}

/// Says of one frame of a trigger whether the device has refused it.
#[inline(always)]
fn settle(trigger: *mut Trigger, place: usize, refused: bool) {
    if place >= BATCH {
        return;
    }
    // SAFETY: aligned numbers in a map value, changed here alone while the trigger is in force, on the
    // CPU of its copies. If it has been given up just now, its next one may count a frame too many, or
    // send one twice: the same bytes, which the receiver's replay list drops.
    let (bits, reported) = unsafe { (&*addr_of!((*trigger).refused[place / 64]), &*addr_of!((*trigger).reported)) };
    if refused {
        atomic::store(bits, atomic::load(bits) | 1 << (place % 64));
    }
    // Behind the bit: who sees all reported sees all bits.
    atomic::store(reported, atomic::load(reported) + 1);
}

/// As in the datapath, for the frames of this object.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn penstock_transmitted(ctx: RawTracePointContext) -> i32 {
    report(xmit::run(&ctx));
    0
}

/// No path leads here: a bounds check that the compiler kept makes the object fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
