//! Why BPF cannot be had.

use std::{net::IpAddr, path::PathBuf};

use super::{Refusal, object};

/// Why the engine does not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    NoObject(#[from] object::Missing),
    #[error("Linux {release} is too old, it lacks: {missing}")]
    Kernel { release: String, missing: String },
    #[error("{0}")]
    Realtime(String),
    #[error("this process may not use XDP, it lacks {missing}: run as root or grant these capabilities")]
    Capabilities { missing: String },
    #[error("`limits.{key}` is {value}, it must be 1 to {most}")]
    Limit { key: &'static str, value: usize, most: usize },
    #[error("the BPF programs were not loaded: {0}")]
    Load(String),
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("it is switched off")]
    SwitchedOff,
    #[error("interface {name}: {reason}")]
    Interface { name: String, reason: String },
    #[error("no interface to attach to: name some in `kernel.interfaces`")]
    NoInterface,
    #[error("more than {limit} interfaces: name those to attach to in `kernel.interfaces`")]
    TooManyInterfaces { limit: usize },
    #[error("{address} is no address of this host")]
    NoSuchAddress { address: IpAddr },
    #[error("asking the kernel for its interfaces and routes failed: {0}")]
    Netlink(std::io::Error),
    #[error("a server with pid {pid} is running with its maps in {path}: stop it, or set another `kernel.pin_dir`")]
    Running { path: PathBuf, pid: u32 },
    #[error("pinned maps in {path}: {reason}")]
    Pins { path: PathBuf, reason: String },
    #[error("starting a thread of the engine failed: {0}")]
    Thread(std::io::Error),
}
