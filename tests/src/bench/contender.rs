//! What is compared.

use super::scene::Arrival;

/// A way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// Fan-out in XDP without any cryptography: the limit.
    Limit,
    /// Both engines as `penstock serve` joins them: the kernel engine for what it can serve.
    Kernel,
    /// The userspace engine, sending by sendmmsg.
    Socket,
    /// The same with UDP GSO.
    SocketGso,
}

impl Contender {
    /// All, in the order of the report.
    pub const ALL: &'static [Self] = &[Self::Limit, Self::Kernel, Self::Socket, Self::SocketGso];

    /// As the command line names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Kernel => "kernel",
            Self::Socket => "socket",
            Self::SocketGso => "socket-gso",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Limit => "XDP fan-out without cryptography",
            Self::Kernel => "kernel engine",
            Self::Socket => "userspace, sendmmsg",
            Self::SocketGso => "userspace, GSO",
        }
    }

    /// How its copies arrive: each has the receiver that costs the machine the least.
    pub const fn arrival(self) -> Arrival {
        match self {
            Self::Limit | Self::Kernel => Arrival::Xdp,
            Self::Socket | Self::SocketGso => Arrival::Stack,
        }
    }

    /// Whether it can forward what arises in the process. (The kernel engine cannot, and whoever asks
    /// `penstock serve` for it gets the userspace engine.)
    pub const fn takes_sources(self) -> bool {
        matches!(self, Self::Socket | Self::SocketGso)
    }
}
