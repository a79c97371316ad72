//! What the kernel and the userspace side of Penstock must agree on.
//!
//! The BPF datapath, the userspace control plane and the tests all use this crate, so there is one
//! definition of each map layout, one replay window, one nonce and one set of counter names.
//! It is `no_std`, allocates nothing and compiles for `bpfel-unknown-none` and for the host.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod aes;
pub mod arrivals;
pub mod atomic;
pub mod checksum;
pub mod counter;
pub mod gf128;
pub mod key;
pub mod keystream;
pub mod maps;
pub mod nonce;
pub mod order;
pub mod path;
pub mod rtp;
pub mod seq;
pub mod store;
pub mod subsets;
pub mod tower;
pub mod transmit;

pub use counter::Counter;
pub use key::SessionKey;
pub use rtp::RtpHeader;
pub use seq::{ExtendedSeq, ReplayWindow};
