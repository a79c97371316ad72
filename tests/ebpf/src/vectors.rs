//! The datapath's cipher on its own.
//!
//! Published AES-GCM vectors have additional data that is no RTP header, and the RTP examples of
//! RFC 7714 have a payload type that a WebRTC port takes for RTCP (RFC 5761). So they cannot come
//! through `penstock_ingress`. This program runs the same `gcm.rs`, from the same source, on a frame
//! that says what to do:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 1 | 0 open, 1 seal |
//! | 2 | 2 | length of the additional data, big endian |
//! | 4 | 2 | length of the payload, big endian |
//! | 14 | 12 | nonce |
//! | 26 | | additional data, payload, 16 bytes of tag or of room for it |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[expect(dead_code, reason = "sealing also gives the checksum for IPv6")]
#[path = "../../../forwarder-ebpf/src/gcm.rs"]
mod gcm;
#[expect(dead_code, reason = "the product reads and changes more of a frame")]
#[path = "../../../forwarder-ebpf/src/packet.rs"]
mod packet;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::Array,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use forwarder_common::SessionKey;
use packet::Frame;

/// The key. The test writes it before each run.
#[btf_map]
pub static KEY: Array<SessionKey, 1> = Array::new();

const NONCE_OFFSET: usize = 14;
const AAD_OFFSET: usize = NONCE_OFFSET + 12;

/// `XDP_PASS`: opened or sealed. `XDP_DROP`: wrong tag. `XDP_ABORTED`: the frame contradicts itself.
#[xdp]
pub fn penstock_vector(ctx: XdpContext) -> u32 {
    run(&Frame::new(&ctx)).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn run(frame: &Frame) -> Option<u32> {
    let seal = frame.read::<u8>(0)? == 1;
    let length = |offset| frame.read::<[u8; 2]>(offset).map(|bytes| usize::from(u16::from_be_bytes(bytes) & 0x7ff));
    let layout = gcm::Layout { aad_offset: AAD_OFFSET, aad_len: length(2)?, payload_len: length(4)? };
    let word = |i: usize| frame.read::<u32>(NONCE_OFFSET + 4 * i);
    let nonce = [word(0)?, word(1)?, word(2)?];
    let key = KEY.get(0)?;
    if seal {
        gcm::seal(frame, key, nonce, layout, None)?;
        return Some(xdp_action::XDP_PASS);
    }
    let right = gcm::open(frame, key, nonce, layout, None)?;
    Some(if right { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP })
}

/// No path leads here: a bounds check that the compiler kept makes the object fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
