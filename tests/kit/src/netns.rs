//! Network namespaces, veth pairs and bpffs mounts that clean up after themselves.
//!
//! Processes and threads enter a namespace by `setns(2)`, not by `ip netns exec`: that would also
//! give them another mount namespace, where bpffs mounts are invisible. The price: `/sys/class/net`
//! still shows the interfaces of the outer namespace. Use `ip`, ioctls or netlink.
//!
//! Everything here needs root and says so when it is missing; nothing is skipped.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    os::fd::{AsRawFd, RawFd},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Names of our namespaces start so; the pid of the maker follows.
const PREFIX: &str = "penstock-";

/// Where `ip netns` keeps the names.
const NETNS_DIRECTORY: &str = "/run/netns";

/// A network namespace. Deleted on drop, with every interface in it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    handle: File,
}

impl NetNs {
    /// Makes a namespace with loopback up and without IPv6 duplicate address detection. The name
    /// is unique: it has the pid of this process, a number, and the label.
    ///
    /// # Errors
    /// Without root, and when `ip` fails.
    pub fn new(label: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static LEFTOVERS: Once = Once::new();
        // SAFETY: no arguments, no memory.
        ensure!(unsafe { libc::geteuid() } == 0, "network namespaces need root: run the tests as root");
        LEFTOVERS.call_once(remove_leftovers);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        ip(["netns", "add", &name])?;
        let path = Path::new(NETNS_DIRECTORY).join(&name);
        let handle = match File::open(&path).with_context(|| path.display().to_string()) {
            Ok(handle) => handle,
            Err(error) => {
                let _ = ip(["netns", "delete", &name]);
                return Err(error);
            }
        };
        let namespace = Self { name, handle };
        namespace.run(|| {
            // Addresses are usable at once. `/proc/sys/net` is that of the calling thread.
            for scope in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0")?;
            }
            std::io::Result::Ok(())
        })?;
        namespace.ip(["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name, for `ip netns exec NAME …` by people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure in the namespace, on a thread of its own. Sockets and runtimes that it makes
    /// stay in the namespace. A panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle = self.handle.as_raw_fd();
        let outcome = thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(handle).expect("setns into a namespace that we hold open");
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread in the namespace.
    ///
    /// # Errors
    /// When the thread cannot start.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let handle = self.handle.try_clone().context("namespace handle")?;
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            enter(handle.as_raw_fd()).expect("setns into a namespace that we hold open");
            work()
        });
        thread.with_context(|| format!("thread {name}"))
    }

    /// A command that will run in the namespace, in our mount namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = self.handle.as_raw_fd();
        // SAFETY: between fork and exec, `setns` is one system call on a descriptor that the child
        // inherits; nothing is allocated or locked.
        unsafe { command.pre_exec(move || enter(handle)) };
        command
    }

    /// `ip` in the namespace; its output.
    ///
    /// # Errors
    /// With the command and what it printed.
    pub fn ip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        checked(self.command("ip").args(arguments))
    }

    /// `ethtool` in the namespace; its output.
    ///
    /// # Errors
    /// With the command and what it printed.
    pub fn ethtool<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        checked(self.command("ethtool").args(arguments))
    }

    /// Adds addresses with prefix length, such as `10.0.0.1/24` or `fd00::1/64`, to an interface.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_addresses(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            let mut arguments = vec!["addr", "add", address, "dev", interface];
            if address.contains(':') {
                arguments.push("nodad");
            }
            self.ip(arguments)?;
        }
        Ok(())
    }

    /// Packets that interfaces and UDP sockets have dropped, by interface and direction: a full ring or a full buffer,
    /// for the most part, since whoever should empty it had no processor.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let links: Value = serde_json::from_str(&self.ip(["-statistics", "-json", "link", "show"])?)?;
        let mut drops = BTreeMap::new();
        for link in links.as_array().into_iter().flatten() {
            for way in ["rx", "tx"] {
                let packets = link["stats64"][way]["dropped"].as_u64().unwrap_or(0);
                if packets > 0 {
                    drops.insert(format!("{} {way} of {}", link["ifname"].as_str().unwrap_or("?"), self.name), packets);
                }
            }
        }
        let (snmp, snmp6) = self.run(|| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            std::io::Result::Ok((read("snmp")?, read("snmp6")?))
        })?;
        for (family, packets) in [("IPv4", buffer_errors(&snmp)), ("IPv6", buffer_errors_6(&snmp6))] {
            if packets > 0 {
                drops.insert(format!("UDP buffers, {family}, of {}", self.name), packets);
            }
        }
        Ok(drops)
    }

    /// Index of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: the name is a C string that outlives the call.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        ensure!(index != 0, "no interface {interface} in {}", self.name);
        Ok(index)
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = ip(["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// `RcvbufErrors` in `/proc/net/snmp`: a line of names, and one of numbers.
fn buffer_errors(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
    pairs.find(|(name, _)| *name == "RcvbufErrors").and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// The same in `/proc/net/snmp6`: a line for each.
fn buffer_errors_6(snmp6: &str) -> u64 {
    let line = snmp6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub namespace: &'a NetNs,
    /// At most 15 bytes.
    pub interface: &'a str,
    /// With prefix length, IPv4 or IPv6.
    pub addresses: &'a [&'a str],
}

/// Connects two namespaces, both ends up and addressed.
///
/// GRO is on at both ends: a veth device only takes frames from `XDP_REDIRECT` when the end that
/// receives them has NAPI. Checksums are computed by the sender, as they are on a wire.
///
/// # Errors
/// When `ip` or `ethtool` fails.
pub fn veth(a: End<'_>, b: End<'_>) -> Result<()> {
    #[rustfmt::skip]
    ip(["link", "add", a.interface, "netns", a.namespace.name(), "type", "veth",
        "peer", "name", b.interface, "netns", b.namespace.name()])?;
    // Both ends before either goes up: a veth works out whether it takes redirected frames when it goes
    // up, from the GRO of its peer, and not again when a peer that is down changes it.
    for end in [a, b] {
        end.namespace.ethtool(["-K", end.interface, "gro", "on", "tx", "off"])?;
    }
    for end in [a, b] {
        end.namespace.add_addresses(end.interface, end.addresses)?;
        end.namespace.ip(["link", "set", end.interface, "up"])?;
    }
    [a, b].into_iter().try_for_each(wait_until_up)
}

/// The kernel notices a carrier some time after both ends are up; until then IPv6 loses what is sent.
fn wait_until_up(end: End<'_>) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !end.namespace.ip(["-oneline", "link", "show", "dev", end.interface])?.contains("state UP") {
        ensure!(Instant::now() < give_up, "{} has no carrier after 30 s", end.interface);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A bpffs of its own, on a temporary directory. Unmounted and removed on drop.
#[derive(Debug)]
pub struct BpfFs {
    directory: PathBuf,
}

impl BpfFs {
    /// Mounts it.
    ///
    /// # Errors
    /// Without root, or without bpffs in the kernel.
    pub fn mount() -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("penstock-bpf-").tempdir().context("temporary directory")?.keep();
        let filesystem = Self { directory };
        let path = filesystem.path().to_str().context("temporary directory is not UTF-8")?;
        checked(Command::new("mount").args(["-t", "bpf", "-o", "mode=0700", "bpf", path]))?;
        Ok(filesystem)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Not mounted when `mount` failed: then only the directory is to be removed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).output();
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// A child process that is killed on drop.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| describe(command))?;
        Ok(Self(Some(child)))
    }

    /// The process id, 0 after [`wait`](Self::wait) took the process.
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Sends a signal such as `libc::SIGTERM`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.id())?;
        ensure!(pid > 0, "no process");
        // SAFETY: no memory; the pid is that of our child, which we have not waited for.
        let result = unsafe { libc::kill(pid, signal) };
        ensure!(result == 0, "kill {pid}: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Waits for its end and takes the output of piped streams.
    ///
    /// # Errors
    /// When waiting fails or was done before.
    pub fn wait(mut self) -> Result<Output> {
        let child = self.0.take().context("no process")?;
        Ok(child.wait_with_output()?)
    }

    /// The process, for its pipes and `try_wait`.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.0.as_mut()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn enter(namespace: RawFd) -> std::io::Result<()> {
    // SAFETY: one system call on a descriptor that is open.
    match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    checked(Command::new("ip").args(arguments))
}

/// Runs a command to its end.
fn checked(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{} does not start", describe(command)))?;
    if !output.status.success() {
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        bail!("{}: {}: {}", describe(command), output.status, printed.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Removes namespaces of runs that ended without their destructors, and the processes in them.
fn remove_leftovers() {
    let Ok(names) = std::fs::read_dir(NETNS_DIRECTORY) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        let Some(maker) = maker else { continue };
        if Path::new("/proc").join(maker.to_string()).exists() {
            continue;
        }
        for pid in ip(["netns", "pids", &name]).unwrap_or_default().lines().filter_map(|pid| pid.parse::<i32>().ok()) {
            // SAFETY: no memory. Only processes of a dead test run live in its namespace.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = ip(["netns", "delete", &name]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn full_socket_buffers_are_read() {
        let snmp = "Ip: A\nIp: 1\nUdp: InDatagrams NoPorts InErrors RcvbufErrors\nUdp: 9 8 7 6\nUdpLite: A\n";
        assert_eq!(super::buffer_errors(snmp), 6);
        assert_eq!(super::buffer_errors_6("Udp6InErrors      1\nUdp6RcvbufErrors    5\n"), 5);
        assert_eq!((super::buffer_errors(""), super::buffer_errors_6("")), (0, 0));
    }

    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn frames_cross_a_veth_pair_in_both_families() -> Result<()> {
        let (left, right) = (NetNs::new("left")?, NetNs::new("right")?);
        veth(
            End { namespace: &left, interface: "l0", addresses: &["10.9.0.1/24", "fd09::1/64"] },
            End { namespace: &right, interface: "r0", addresses: &["10.9.0.2/24", "fd09::2/64"] },
        )?;
        for address in ["10.9.0.2:4000", "[fd09::2]:4000"] {
            let receiver = right.run(|| UdpSocket::bind(address))?;
            receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
            let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            left.run(|| UdpSocket::bind(any)?.send_to(b"hello", address))?;
            let mut buffer = [0; 16];
            assert_eq!(receiver.recv(&mut buffer).with_context(|| address.to_owned())?, 5);
        }
        assert!(left.ifindex("l0")? > 1);
        assert!(left.ifindex("r0").is_err());
        Ok(())
    }

    #[test]
    fn children_share_our_mounts_and_not_our_network() -> Result<()> {
        let namespace = NetNs::new("child")?;
        let bpf = BpfFs::mount()?;
        let mounts = checked(namespace.command("cat").arg("/proc/mounts"))?;
        assert!(mounts.contains(bpf.path().to_str().unwrap_or("?")));
        let links = checked(namespace.command("ip").args(["-brief", "link"]))?;
        assert_eq!(links.lines().count(), 1, "only loopback: {links}");
        Ok(())
    }

    #[test]
    fn nothing_is_left_after_a_panic() -> Result<()> {
        let mut name = String::new();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let namespace = NetNs::new("panic").unwrap();
            name = namespace.name().to_owned();
            namespace.run(|| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert!(!Path::new(NETNS_DIRECTORY).join(&name).exists());
        Ok(())
    }
}
