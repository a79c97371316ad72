#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

#[xdp]
pub fn penstock_ingress(_ctx: XdpContext) -> u32 {
    let _ = maps::FLOWS.get_ptr(&Default::default());
    let _ = (maps::PUBLISHER_TRACKS.get(0), maps::FANOUTS.get(0).map(|m| m.redirect(0, 8)));
    xdp_action::XDP_PASS
}

#[xdp(map = "devmap")]
pub fn penstock_egress(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
