//! A guest: qemu with a kernel and an initramfs, and what it says.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    archive::{self, Suite, failed},
    process::{Outcome, find, root},
    progress::Console,
};

/// Begin of the guest's lines for us: `tests/src/guest/mod.rs`.
const MARK: &str = "@penstock\t";

/// Memory of a guest in MiB: the initramfs twice, and the maps.
const MEMORY: &str = "1536";

/// Longest wait for a kernel to begin, when it is found out whether KVM works.
const PROBE: Duration = Duration::from_secs(20);

/// What a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// This machine.
    pub(crate) const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// As Rust names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// By [`name`](Self::name).
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::X86_64, Self::Aarch64].into_iter().find(|machine| machine.name() == name)
    }

    /// As Debian names it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Debian's folder of libraries.
    pub(crate) fn triplet(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// Rust's target.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The loader of dynamic programs.
    pub(crate) fn loader(self) -> &'static str {
        match self {
            Self::X86_64 => "/lib64/ld-linux-x86-64.so.2",
            Self::Aarch64 => "/lib/ld-linux-aarch64.so.1",
        }
    }

    fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}

/// Something that the guest said: a word, and what belongs to it.
pub(crate) type Event = Vec<String>;

/// What came of a guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub events: Vec<Event>,
    /// It came to its end by itself.
    pub whole: bool,
    /// On the host.
    pub time: Duration,
}

/// The emulator.
#[derive(Clone)]
pub(crate) struct Qemu {
    machine: Machine,
    program: PathBuf,
    /// Where it was unpacked; none for the system's own.
    unpacked: Option<PathBuf>,
    kvm: bool,
}

impl Qemu {
    /// The system's, or the archive's without installing it. `image`: a kernel with which KVM is tried.
    ///
    /// # Errors
    /// The archive has none, or cannot be reached.
    pub(crate) fn get(machine: Machine, image: &Path, console: &Console<'_>) -> Outcome<Self> {
        let (program, package) = machine.qemu();
        let mut qemu = match find(program) {
            Some(program) => Self { machine, program, unpacked: None, kvm: false },
            None => {
                let folder = root().join("target/kernels").join(program);
                let whole = folder.join("whole");
                if !whole.exists() {
                    let suite = Suite::open(&archive::own_suite()?, Machine::HERE.debian(), false)?;
                    suite.update(console)?;
                    let files = suite.fetch(&suite.with_dependencies(&[package])?, console)?;
                    archive::unpack(&files, &folder, console)?;
                    archive::write(&whole, "")?;
                }
                Self { machine, program: folder.join("usr/bin").join(program), unpacked: Some(folder), kvm: false }
            }
        };
        qemu.kvm = qemu.kvm_works(image, console)?;
        Ok(qemu)
    }

    /// What emulates, for people.
    pub(crate) fn accelerator(&self) -> &'static str {
        if self.kvm { "KVM" } else { "TCG" }
    }

    /// Some machines have a `/dev/kvm` on which no guest ever runs, so a kernel is started. The answer holds until
    /// the machine starts again.
    fn kvm_works(&self, image: &Path, console: &Console<'_>) -> Outcome<bool> {
        let device = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        if self.machine != Machine::HERE || device().is_err() {
            return Ok(false);
        }
        let answer = root().join("target/kernels/kvm");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = fs::read_to_string(&answer).unwrap_or_default();
        if let Some(works) = known.strip_prefix(&boot) {
            return Ok(works == "works");
        }
        console.print("trying /dev/kvm\n");
        let mut attempt = Self { kvm: true, ..self.clone() };
        attempt.kvm = true;
        // Without a file system the kernel panics, and that ends the guest.
        let mut command = attempt.command(PROBE);
        command.arg("-kernel").arg(image).args(["-append", &attempt.parameters("")]);
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("qemu: {error}"))?;
        let works = output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Kernel panic");
        console.print(&format!("/dev/kvm {}\n", if works { "works" } else { "is there, but no guest runs on it" }));
        archive::write(&answer, &format!("{boot}{}", if works { "works" } else { "fails" }))?;
        Ok(works)
    }

    /// Boots, reads what the guest says, and ends when it does, or after `patience`.
    ///
    /// # Errors
    /// qemu does not start.
    pub(crate) fn run(
        &self,
        image: &Path,
        initramfs: &Path,
        steps: &[&str],
        patience: Duration,
        console: &Console<'_>,
    ) -> Outcome<Report> {
        let mut command = self.command(patience);
        command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
        command.args(["-append", &self.parameters(&format!("penstock.steps={}", steps.join(",")))]);
        // Two cards, wired to each other inside of qemu: nothing of the host's network is involved.
        for (n, card) in ["52:54:00:00:00:01", "52:54:00:00:00:02"].into_iter().enumerate() {
            command.args(["-netdev", &format!("hubport,id=n{n},hubid=0")]);
            command.args(["-device", &format!("virtio-net-pci,netdev=n{n},mac={card},romfile=")]);
        }
        console.print(&format!("$ {}\n", crate::process::display(&command)));
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&self.program, &error))?;
        let mut report = Report::default();
        if let Some(output) = child.stdout.take() {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                match text.split_once(MARK) {
                    Some((_, said)) => {
                        let event: Event = said.split('\t').map(str::to_owned).collect();
                        console.print(&format!("{}\n", event.join(" ")));
                        report.whole |= event[0] == "end";
                        report.events.push(event);
                    }
                    None => console.print(&format!("{text}\n")),
                }
            }
        }
        let status = child.wait().map_err(|error| failed(&self.program, &error))?;
        console.print(&format!("qemu ended with {status}\n"));
        report.time = start.elapsed();
        Ok(report)
    }

    fn parameters(&self, more: &str) -> String {
        // Panics end the guest, since it is not started again. The clock of an emulated processor is no judge, and a
        // place by chance (kaslr) costs 6.18 minutes there.
        let common = "quiet panic=-1 oops=panic mitigations=off tsc=unstable nokaslr";
        format!("console={} {common} {more}", self.machine.console())
    }

    /// The guest without kernel: killed after `patience`, whatever becomes of us.
    fn command(&self, patience: Duration) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &patience.as_secs().to_string()]).arg(&self.program);
        if let Some(folder) = &self.unpacked {
            let triplet = Machine::HERE.triplet();
            let libraries = ["usr/lib", "lib"].map(|lib| folder.join(lib).join(triplet).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(folder.join(data));
            }
        }
        let processor = match (self.kvm, self.machine) {
            (true, _) => "host",
            (false, Machine::X86_64) => "max",
            (false, Machine::Aarch64) => "cortex-a72",
        };
        if self.machine == Machine::Aarch64 {
            command.args(["-machine", "virt"]);
        }
        command.args(["-accel", if self.kvm { "kvm" } else { "tcg,thread=multi" }, "-cpu", processor]);
        command.args(["-smp", "1", "-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-serial", "stdio"]);
        command
    }
}
