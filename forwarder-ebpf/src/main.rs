//! Penstock's datapath. One packet's way through these files:
//!
//! ```text
//! ingress: classify → admit ─► forward: open → fanout ═ bpf_redirect_map, n clones ═► egress: next copy → rewrite → seal
//!                            └► direct, for one subscriber: all of it at once ───────► egress: passes
//! ```
//!
//! Every step returns `Result<_, Counter>`: the error names why the packet goes no further, and the
//! counter's kind says whether that means to the network stack or to nowhere.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod ahead;
mod arrivals;
mod classify;
mod counters;
mod direct;
mod egress;
mod fanout;
mod forward;
mod gcm;
mod handover;
mod ingress;
mod maps;
mod open;
mod packet;
mod recrypt;
mod rewrite;
mod seal;
mod store;
mod subscriber;
mod subsets;
mod tap;
mod tower;
mod walk;
mod warm;
mod xmit;

use aya_ebpf::{
    macros::{raw_tracepoint, xdp},
    programs::{RawTracePointContext, XdpContext},
};
use packet::Frame;

/// From the network: passes the packets of our publishers on to one of the next two. Everything else passes to the
/// network stack.
#[xdp]
pub fn penstock_ingress(ctx: XdpContext) -> u32 {
    counters::verdict(&ctx, ingress::run(&Frame::new(&ctx)))
}

/// Opens a packet and sends it to `penstock_egress`, once per subscriber.
#[xdp]
pub fn penstock_forward(ctx: XdpContext) -> u32 {
    counters::verdict(&ctx, forward::run(&Frame::new(&ctx)))
}

/// The short way of packets with one subscriber.
#[xdp]
pub fn penstock_direct(ctx: XdpContext) -> u32 {
    counters::verdict(&ctx, direct::run(&Frame::new(&ctx)))
}

/// On the way out, once per copy: makes it the next subscriber's packet.
#[xdp(map = "devmap")]
pub fn penstock_egress(ctx: XdpContext) -> u32 {
    counters::verdict(&ctx, egress::run(&Frame::new(&ctx)))
}

/// After a device has been handed a bulk of frames: counts what it took and what it refused.
/// Attached to the raw tracepoint `xdp_devmap_xmit`.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn penstock_xmit(ctx: RawTracePointContext) -> i32 {
    xmit::run(&ctx);
    0
}

/// No path leads here: a bounds check that the compiler kept makes the object fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
