//! What is compared.

use forwarder_common::maps::MAX_COPIES;

use super::{
    case::{Case, Origin},
    scene::Arrival,
};

/// A way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// Fan-out in XDP without any cryptography: the limit.
    Limit,
    /// Both engines as `penstock serve` joins them: the kernel engine for what it can serve.
    Kernel,
    /// The same where the verifier has refused the short way for one viewer.
    KernelLong,
    /// The same in generic mode: XDP behind the driver, on the packets of the network stack.
    Generic,
    /// The userspace engine, sending by XDP.
    Xdp,
    /// The userspace engine, sending by sendmmsg.
    Socket,
    /// The same with UDP GSO.
    SocketGso,
    /// By sendmmsg, with packets sealed by OpenSSL's EVP.
    SocketOpenssl,
    /// A server of another make, whole: HTTP, ICE, DTLS and RTCP are in its figures.
    #[value(skip)]
    Peer,
}

impl Contender {
    /// All of ours, in the order of the report.
    pub const ALL: &'static [Self] = &[
        Self::Limit,
        Self::Kernel,
        Self::KernelLong,
        Self::Generic,
        Self::Xdp,
        Self::Socket,
        Self::SocketGso,
        Self::SocketOpenssl,
    ];

    /// Is it measured where none is named? The others answer questions of their own: tiers below the first.
    pub const fn is_usual(self) -> bool {
        !matches!(self, Self::KernelLong | Self::Generic)
    }

    /// The kernel engine, in one of its modes.
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::KernelLong | Self::Generic)
    }

    /// As the command line names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Kernel => "kernel",
            Self::KernelLong => "kernel-long",
            Self::Generic => "generic",
            Self::Xdp => "xdp",
            Self::Socket => "socket",
            Self::SocketGso => "socket-gso",
            Self::SocketOpenssl => "socket-openssl",
            Self::Peer => "peer",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Limit => "XDP fan-out without cryptography",
            Self::Kernel => "kernel engine",
            Self::KernelLong => "kernel engine, no short way",
            Self::Generic => "kernel engine, generic XDP",
            Self::Xdp => "userspace, XDP",
            Self::Socket => "userspace, sendmmsg",
            Self::SocketGso => "userspace, GSO",
            Self::SocketOpenssl => "userspace, sendmmsg, OpenSSL",
            Self::Peer => "other server",
        }
    }

    /// How its copies arrive: each has the receiver that costs the machine the least.
    pub const fn arrival(self) -> Arrival {
        match self {
            Self::Limit | Self::Kernel | Self::KernelLong | Self::Xdp => Arrival::Xdp,
            Self::Generic | Self::Socket | Self::SocketGso | Self::SocketOpenssl | Self::Peer => Arrival::Stack,
        }
    }

    /// Whether it can do what a case asks for. The kernel engine takes nothing that arises in the process
    /// (`penstock serve` gives such a stream to the userspace engine), and the limit is one pass of a
    /// broadcast, which a veth's ring of 256 frames bounds.
    pub const fn serves(self, case: &Case) -> bool {
        match self {
            Self::Limit => matches!(case.origin, Origin::Srtp) && case.viewers <= MAX_COPIES as u32,
            Self::Kernel | Self::KernelLong | Self::Generic => matches!(case.origin, Origin::Srtp),
            Self::Xdp | Self::Socket | Self::SocketGso | Self::SocketOpenssl | Self::Peer => true,
        }
    }
}
