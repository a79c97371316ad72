//! The programs of `cargo xtask bench fanout` and `bench cameras`.
//!
//! | program | where | does |
//! | --- | --- | --- |
//! | `bench_limit`, `bench_limit_egress` | server | fan-out without cryptography: what clones, redirection and the device cost, and nothing else |
//! | `bench_drop` | server | drops what the load generator sends: what is left is the generator's own cost |
//! | `bench_count` | receivers, of XDP frames | counts, samples the latency, drops |
//! | `bench_count_tc` | receivers, of the network stack's packets | the same |
//! | `bench_watch` | viewers with a whole WebRTC stack | counts by port and length, drops RTP that nobody opens |
//!
//! The load generator sends Ethernet, IPv4 without options, UDP, RTP. Publisher `s` sends from UDP port
//! `PUBLISHER_PORT + s`; viewer `v` of stream `s` listens at `VIEWER_PORT + s * VIEWERS + v`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[expect(dead_code, reason = "the product reads and changes more of a frame")]
#[path = "../../../forwarder-ebpf/src/packet.rs"]
mod packet;

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, DevMap, PerCpuArray},
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use packet::Frame;

/// UDP port of the server.
#[unsafe(no_mangle)]
pub static MEDIA_PORT: Global<u16> = Global::new(0);
/// Source port of the first publisher.
#[unsafe(no_mangle)]
pub static PUBLISHER_PORT: Global<u16> = Global::new(0);
/// Port of the first viewer.
#[unsafe(no_mangle)]
pub static VIEWER_PORT: Global<u16> = Global::new(0);
/// Viewers of each stream.
#[unsafe(no_mangle)]
pub static VIEWERS: Global<u32> = Global::new(1);
/// Sequence numbers of a stream that `SENT` tells apart, a power of two.
#[unsafe(no_mangle)]
pub static WINDOW: Global<u32> = Global::new(1);

/// Destinations of the fan-out without cryptography. The loader sets the size.
#[btf_map]
pub static LIMIT: DevMap<1> = DevMap::new();

/// Ethernet, IPv4 and UDP headers of its copies, all but the destination port.
#[btf_map]
pub static TEMPLATE: Array<[u8; RTP], 1> = Array::new();

/// Copies that this CPU has sent.
#[btf_map]
pub static COPIES: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Packets by viewer. The loader sets the size.
#[btf_map]
pub static RECEIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// When packets were sent, ns of CLOCK_MONOTONIC: by stream, then by the low bits of the sequence
/// number. The load generator writes it in its own memory; the loader sets the size.
#[btf_map]
pub static SENT: Array<u64, 1, MMAPABLE> = Array::new();

/// Length of the shortest RTP packet, sealed, that is media of the load.
#[unsafe(no_mangle)]
pub static MEDIA_LEN: Global<u16> = Global::new(0);

/// What came to each UDP port.
#[btf_map]
pub static PORTS: Array<Port, 65536> = Array::new();

/// RTP to one port. Its packets come one by one: a veth has one queue.
#[repr(C)]
pub struct Port {
    /// Not 0: somebody opens the packets. Written by the loader.
    wanted: u64,
    packets: u64,
    /// Those that are at least [`MEDIA_LEN`] long.
    media: u64,
}

/// Sampled latencies by [`bucket`].
#[btf_map]
pub static LATENCY: PerCpuArray<u64, 512> = PerCpuArray::new();

const MMAPABLE: usize = 0x400;
/// `BPF_F_BROADCAST`.
const BROADCAST: u64 = 8;
const ETHERTYPE: usize = 12;
const PROTOCOL: usize = 23;
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;
const UDP_LENGTH: usize = 38;
const UDP_HEADER: u16 = 8;
const RTP: usize = 42;
const SEQ: usize = RTP + 2;
/// One copy of so many is timed.
const SAMPLE: u32 = 16;

#[xdp]
pub fn bench_drop(ctx: XdpContext) -> u32 {
    match media(&Frame::new(&ctx)) {
        Some(_) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

#[xdp]
pub fn bench_limit(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    let Some(stream) = media(&frame) else { return xdp_action::XDP_PASS };
    if frame.write(0, stream).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    LIMIT.redirect(0, BROADCAST).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp(map = "devmap")]
pub fn bench_limit_egress(ctx: XdpContext) -> u32 {
    match next_copy(&Frame::new(&ctx)) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The number of the stream, if the frame is one of a publisher.
#[inline(always)]
fn media(frame: &Frame) -> Option<u32> {
    if port(frame, DESTINATION_PORT)? != MEDIA_PORT.load() {
        return None;
    }
    Some(u32::from(port(frame, SOURCE_PORT)?.wrapping_sub(PUBLISHER_PORT.load())))
}

/// A port of a UDP packet in IPv4.
#[inline(always)]
fn port(frame: &Frame, offset: usize) -> Option<u16> {
    let udp = frame.read::<[u8; 2]>(ETHERTYPE)? == [8, 0] && frame.read::<u8>(PROTOCOL)? == 17;
    udp.then_some(u16::from_be_bytes(frame.read(offset)?))
}

/// Copies leave in the order of their viewers, all of one packet before the next one's.
#[inline(always)]
fn next_copy(frame: &Frame) -> Option<()> {
    let stream: u32 = frame.read(0)?;
    let copies = COPIES.get_ptr_mut(0)?;
    // SAFETY: this CPU's own number; programs of one CPU do not interleave.
    let copy = unsafe {
        *copies += 1;
        *copies - 1
    };
    let viewers = VIEWERS.load();
    let viewer = stream * viewers + copy.checked_rem(u64::from(viewers))? as u32;
    frame.write(0, *TEMPLATE.get(0)?)?;
    frame.write(DESTINATION_PORT, VIEWER_PORT.load().wrapping_add(viewer as u16).to_be_bytes())
}

#[xdp]
pub fn bench_count(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    let number = || Some((port(&frame, DESTINATION_PORT)?, u16::from_be_bytes(frame.read(SEQ)?)));
    match number().and_then(|(port, seq)| count(port, seq, 1)) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

#[xdp]
pub fn bench_watch(ctx: XdpContext) -> u32 {
    match watch(&Frame::new(&ctx)) {
        Some(0) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Counts a packet of a viewer; whether somebody wants it. `None`: it is not RTP (RFC 7983, RFC 5761 §4).
#[inline(always)]
fn watch(frame: &Frame) -> Option<u64> {
    let port = PORTS.get_ptr_mut(u32::from(port(frame, DESTINATION_PORT)?))?;
    let [first, second] = frame.read::<[u8; 2]>(RTP)?;
    if !(128..192).contains(&first) || (64..96).contains(&(second & 0x7f)) {
        return None;
    }
    let length = u16::from_be_bytes(frame.read(UDP_LENGTH)?).saturating_sub(UDP_HEADER);
    // SAFETY: a map value; two CPUs never have packets of one port at the same time.
    let port = unsafe { &mut *port };
    port.packets += 1;
    port.media += u64::from(length >= MEDIA_LEN.load());
    Some(port.wanted)
}

#[classifier]
pub fn bench_count_tc(ctx: TcContext) -> i32 {
    let number = || {
        let ip = u16::from_be(ctx.load(ETHERTYPE).ok()?) == 0x0800 && ctx.load::<u8>(PROTOCOL).ok()? == 17;
        ip.then_some((u16::from_be(ctx.load(DESTINATION_PORT).ok()?), u16::from_be(ctx.load(SEQ).ok()?)))
    };
    // SAFETY: a field of the context that the kernel gave us.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    match number().and_then(|(port, seq)| count(port, seq, segments.max(1))) {
        Some(()) => TC_ACT_SHOT,
        None => TC_ACT_OK,
    }
}

/// Counts a packet for a viewer, or several that a device would cut into so many. `None`: it is for none.
#[inline(always)]
fn count(port: u16, seq: u16, packets: u32) -> Option<()> {
    let viewer = u32::from(port.wrapping_sub(VIEWER_PORT.load()));
    let received = RECEIVED.get_ptr_mut(viewer)?;
    // SAFETY: this CPU's own number; programs of one CPU do not interleave.
    unsafe { *received += u64::from(packets) };
    if (viewer + u32::from(seq)) % SAMPLE == 0 {
        let window = WINDOW.load();
        let place = viewer.checked_div(VIEWERS.load())? * window + (u32::from(seq) & window.wrapping_sub(1));
        let sent = SENT.get_ptr(place)?;
        // SAFETY: an aligned number in a map value; volatile because the generator changes it under us.
        let sent = unsafe { core::ptr::read_volatile(sent) };
        // SAFETY: a plain helper call.
        let latency = unsafe { bpf_ktime_get_ns() }.saturating_sub(sent);
        let samples = LATENCY.get_ptr_mut(bucket(latency))?;
        // SAFETY: as above.
        unsafe { *samples += 1 };
    }
    Some(())
}

/// Eight buckets for each power of two: the highest bit, and the three bits behind it.
#[inline(always)]
fn bucket(ns: u64) -> u32 {
    let ns = if ns < 8 { 8 } else { ns };
    let exponent = 63 - ns.leading_zeros();
    exponent * 8 + (ns >> (exponent - 3)) as u32 % 8
}

/// No path leads here: a bounds check that the compiler kept makes the object fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
