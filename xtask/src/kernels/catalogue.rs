//! The kernels of the matrix.

use super::guest::Machine;

/// Where a kernel comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The one that a package of these suites depends on; of several suites, the highest version.
    Meta { suites: &'static [&'static str], package: &'static str },
    /// The highest version of those whose names begin and end so.
    Named { suite: &'static str, begin: &'static str, end: &'static str },
}

/// What a guest with a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Everything.
    Serve,
    /// Penstock must end and say why.
    Refuse,
}

/// One kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// As `--kernel` names it.
    pub name: &'static str,
    pub machine: Machine,
    pub source: Source,
    pub purpose: Purpose,
    /// For people.
    pub from: &'static str,
}

const BOOKWORM: &[&str] = &["bookworm"];
const TRIXIE: &[&str] = &["trixie"];
/// Which of the two is ahead changes.
const AHEAD: &[&str] = &["trixie-backports", "sid"];

/// All. Cloud kernels are smaller, and have all that a guest needs.
pub(super) const KERNELS: [Kernel; 7] = [
    Kernel {
        name: "6.1",
        machine: Machine::X86_64,
        source: Source::Meta { suites: BOOKWORM, package: "linux-image-cloud-amd64" },
        purpose: Purpose::Serve,
        from: "Debian 12",
    },
    Kernel {
        name: "6.12",
        machine: Machine::X86_64,
        source: Source::Meta { suites: TRIXIE, package: "linux-image-cloud-amd64" },
        purpose: Purpose::Serve,
        from: "Debian 13",
    },
    Kernel {
        name: "6.18",
        machine: Machine::X86_64,
        source: Source::Named { suite: "trixie-backports", begin: "linux-image-6.18.", end: "-cloud-amd64" },
        purpose: Purpose::Serve,
        from: "backports of Debian 13",
    },
    Kernel {
        name: "newest",
        machine: Machine::X86_64,
        source: Source::Meta { suites: AHEAD, package: "linux-image-cloud-amd64" },
        purpose: Purpose::Serve,
        from: "backports of Debian 13, or unstable",
    },
    Kernel {
        name: "rt",
        machine: Machine::X86_64,
        source: Source::Meta { suites: &["trixie-backports"], package: "linux-image-rt-amd64" },
        purpose: Purpose::Refuse,
        from: "backports of Debian 13, PREEMPT_RT",
    },
    Kernel {
        name: "arm64-6.1",
        machine: Machine::Aarch64,
        source: Source::Meta { suites: BOOKWORM, package: "linux-image-cloud-arm64" },
        purpose: Purpose::Serve,
        from: "Debian 12, aarch64",
    },
    Kernel {
        name: "arm64-6.12",
        machine: Machine::Aarch64,
        source: Source::Meta { suites: TRIXIE, package: "linux-image-cloud-arm64" },
        purpose: Purpose::Serve,
        from: "Debian 13, aarch64",
    },
];

/// Of one name.
pub(super) fn find(name: &str) -> Option<Kernel> {
    KERNELS.into_iter().find(|kernel| kernel.name == name)
}
