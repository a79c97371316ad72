//! Keystream ahead of time, the producer's side. The protocol: `forwarder_common::keystream`.

#[cfg(target_arch = "x86_64")]
mod aesni;
pub mod compute;
#[cfg(target_arch = "x86_64")]
mod vaes;
