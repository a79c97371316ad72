//! Why BPF cannot be had.

use std::{net::IpAddr, path::PathBuf};

use super::{Refusal, object};

/// Why the engine does not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Built without `cargo xtask build-ebpf`.
    #[error(transparent)]
    NoObject(#[from] object::Missing),
    /// Found out before anything is loaded.
    #[error("Linux {release} is too old, it lacks: {missing}")]
    Kernel {
        /// As `uname -r` says it.
        release: String,
        /// Every feature that is lacking, separated by semicolons.
        missing: String,
    },
    /// On PREEMPT_RT another packet may come in between, and the programs' per-CPU state is not their own.
    #[error("{0}")]
    Realtime(String),
    /// Found out before anything is loaded.
    #[error("this process may not use XDP, it lacks {missing}: run as root or grant these capabilities")]
    Capabilities {
        /// Names as `CAP_BPF`, separated by commas.
        missing: String,
    },
    /// A size is out of range.
    #[error("`limits.{key}` is {value}, it must be 1 to {most}")]
    Limit {
        /// Without `limits.` in front.
        key: &'static str,
        /// From the configuration.
        value: usize,
        /// Largest that the map or the handles have room for.
        most: usize,
    },
    /// An object, a map or a program is not as this program expects it; aya's or the system's words.
    #[error("the BPF programs were not loaded: {0}")]
    Load(String),
    /// The verifier's verdict on a program, with its log.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The short way was not wanted ([`Config::direct`](crate::kernel::Config::direct)); not a failure.
    #[error("it is switched off")]
    SwitchedOff,
    /// One that was named or that carries the media.
    #[error("interface {name}: {reason}")]
    Interface {
        /// As `ip link` shows it.
        name: String,
        /// No such device, not up, another XDP program, or what its driver said.
        reason: String,
    },
    /// None was named, and there is no default route with a device but the loopback.
    #[error("no interface to attach to: name some in `kernel.interfaces`")]
    NoInterface,
    /// Named, or found by addresses and default routes.
    #[error("more than {limit} interfaces: name those to attach to in `kernel.interfaces`")]
    TooManyInterfaces {
        /// How many the maps and the server's record have room for.
        limit: usize,
    },
    /// A media address that no interface carries, so none can be attached for it.
    #[error("{address} is no address of this host")]
    NoSuchAddress {
        /// From `media.addresses`.
        address: IpAddr,
    },
    /// What the socket or the kernel's answer said.
    #[error("asking the kernel for its interfaces and routes failed: {0}")]
    Netlink(std::io::Error),
    /// The lock on the directory is held.
    #[error("a server with pid {pid} is running with its maps in {path}: stop it, or set another `kernel.pin_dir`")]
    Running {
        /// From `kernel.pin_dir`.
        path: PathBuf,
        /// Of the holder; 0: its maps do not say.
        pid: u32,
    },
    /// The directory or a pin in it could not be prepared.
    #[error("pinned maps in {path}: {reason}")]
    Pins {
        /// The directory, or the pin that failed.
        path: PathBuf,
        /// Which step, and what the system said.
        reason: String,
    },
    /// The system's words: out of threads, memory or file descriptors.
    #[error("starting a thread of the engine failed: {0}")]
    Thread(std::io::Error),
}
