//! The real `penstock` binary in a network namespace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::{NetNs, Running};
use crate::whip::Client;

/// Longest wait for the server to be ready: the verifier may take seconds on a busy machine, and more than a minute on
/// an emulated one.
const START: Duration = Duration::from_secs(240);
/// Longest wait for a signalled server to end.
const STOP: Duration = Duration::from_secs(20);

/// What differs from the defaults of `penstock serve`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interfaces to attach to.
    pub interfaces: Vec<String>,
    /// `native`, `generic` or `auto`.
    pub mode: &'static str,
    /// Where HTTP listens; the first one is what the URLs below name.
    pub http: Vec<SocketAddr>,
    /// More lines of TOML, with their own section headers.
    pub more: String,
    /// As an ordinary user: uid and gid 65534, no capabilities.
    pub unprivileged: bool,
}

/// Where a server's log goes.
#[derive(Debug)]
pub enum Outlet {
    /// To this process, which keeps it: [`Server::log`].
    Kept,
    /// To this file, pipe or device.
    File(OwnedFd),
    /// Nowhere: the server has no standard error at all.
    Closed,
}

/// A running server. Killed on drop.
pub struct Server {
    process: Option<Running>,
    namespace: String,
    http: SocketAddr,
    directory: tempfile::TempDir,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// A copy of [`binary`] in a directory that all may read: the build folder may be root's alone.
///
/// By `cp`: what this process has open for writing, a program that another test starts has open for a moment, and
/// nobody can run a file that is open so.
///
/// # Errors
/// As [`binary`], and without room.
pub fn binary_for_all(directory: &Path) -> Result<PathBuf> {
    let copy = directory.join("penstock");
    ensure!(Command::new("cp").arg(binary()?).arg(&copy).status()?.success(), "cp failed");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// The binary that cargo built next to this executable.
///
/// # Errors
/// It is missing or older than its sources; the message says what to run.
pub fn binary() -> Result<PathBuf> {
    const BUILD: &str = "build it with `cargo build -p forwarder-user` (`cargo xtask test` does)";
    let own = std::env::current_exe()?;
    let candidates = own.ancestors().skip(1).take(3).map(|directory| directory.join("penstock"));
    let binary = candidates.into_iter().find(|path| path.is_file());
    let binary = binary.with_context(|| format!("no `penstock` near {}: {BUILD}", own.display()))?;
    // cargo lists there what the binary was made of, in the syntax of make.
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let built = modified(&binary)?;
    for source in sources.split_whitespace().skip(1) {
        ensure!(
            modified(Path::new(source)).is_ok_and(|changed| changed <= built),
            "{} is older than {source}: {BUILD}",
            binary.display()
        );
    }
    Ok(binary)
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(path.metadata()?.modified()?)
}

fn spawn(namespace: &NetNs, settings: &Settings, directory: &Path, outlet: Outlet) -> Result<(Running, Arc<Log>)> {
    let file = directory.join("penstock.toml");
    std::fs::write(&file, toml(settings, &directory.join("bpf")))?;
    let mut command = if settings.unprivileged {
        let copy = binary_for_all(directory)?;
        let mut command = namespace.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.arg(copy);
        command
    } else {
        namespace.command(binary()?)
    };
    command.arg("serve").arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let log = Arc::new(Log::default());
    let file = match outlet {
        Outlet::Kept => {
            let (reader, writer) = std::io::pipe()?;
            keep(reader, Arc::clone(&log))?;
            writer.into()
        }
        Outlet::File(file) => file,
        Outlet::Closed => {
            // SAFETY: the function does one system call between fork and exec; nothing is allocated or locked.
            unsafe { command.pre_exec(close_standard_error) };
            std::fs::File::open("/dev/null")?.into()
        }
    };
    command.stderr(Stdio::from(file));
    Ok((Running::start(&mut command)?, log))
}

fn close_standard_error() -> std::io::Result<()> {
    // SAFETY: a descriptor that nothing in the child uses any more.
    unsafe { libc::close(libc::STDERR_FILENO) };
    Ok(())
}

fn keep(reader: PipeReader, log: Arc<Log>) -> Result<()> {
    std::thread::Builder::new().name("server log".into()).spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            log.grown.notify_all();
        }
    })?;
    Ok(())
}

impl Server {
    /// Starts a server and waits until it says that it is ready.
    ///
    /// # Errors
    /// It did not; with its log.
    pub fn start(namespace: &NetNs, settings: &Settings) -> Result<Self> {
        let mut server = Self::spawn(namespace, settings, Outlet::Kept)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Starts a server whose log goes elsewhere, and waits until it says by HTTP that it is healthy.
    ///
    /// # Errors
    /// It did not.
    pub fn start_logging_to(namespace: &NetNs, settings: &Settings, outlet: Outlet) -> Result<Self> {
        let mut server = Self::spawn(namespace, settings, outlet)?;
        server.wait("healthy", |server| server.get_text("/healthz").is_ok())?;
        Ok(server)
    }

    /// Starts a server, and does not wait for anything.
    ///
    /// # Errors
    /// There is no binary, or it cannot be started.
    pub fn spawn(namespace: &NetNs, settings: &Settings, outlet: Outlet) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("penstock-server-").tempdir()?;
        let (process, log) = spawn(namespace, settings, directory.path(), outlet)?;
        let http = *settings.http.first().context("no HTTP address")?;
        Ok(Self { process: Some(process), namespace: namespace.name().into(), http, directory, log })
    }

    /// Starts the server again after its end, with the same configuration and directory for its pins.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_again(&mut self, namespace: &NetNs, settings: &Settings) -> Result<()> {
        self.process = None;
        let (process, log) = spawn(namespace, settings, self.directory.path(), Outlet::Kept)?;
        (self.process, self.log) = (Some(process), log);
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        self.wait("ready", |server| server.logged("ready"))
    }

    fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + START;
        while !condition(self) {
            let child = self.process.as_mut().and_then(Running::child).context("no process")?;
            if let Some(status) = child.try_wait()? {
                bail!("the server ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < end, "the server is not {what} after {START:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Running::id)
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes << 10)
    }

    /// All that the server logged.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether a line of the log has this text.
    pub fn logged(&self, text: &str) -> bool {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(text))
    }

    /// Waits until a line of the log has this text.
    ///
    /// # Errors
    /// It did not come in time; with the log.
    pub fn wait_log(&self, text: &str, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        while !lines.iter().any(|line| line.contains(text)) {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the server did not log {text:?}:\n{}", lines.join("\n"));
            lines = self.log.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// `http://…/{stream}/{endpoint}`; the endpoint is `whip` or `whep`.
    pub fn url(&self, stream: &str, endpoint: &str) -> String {
        format!("http://{}/{stream}/{endpoint}", self.http)
    }

    /// Directory of the pins.
    pub fn pins(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    /// `penstock NAME --json` on the live maps, from a process of its own.
    ///
    /// # Errors
    /// The command fails, or prints something else than JSON.
    pub fn inspect(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.inspect_text(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("penstock {arguments:?} printed {text}"))
    }

    /// `penstock NAME`, as a person sees it.
    ///
    /// # Errors
    /// The command fails.
    pub fn inspect_text(&self, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(binary()?);
        command.args(arguments).arg("--pin-dir").arg(self.pins());
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "penstock {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `GET path` from inside the server's namespace.
    ///
    /// # Errors
    /// No answer, not 200, not JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get_text(path)?)?)
    }

    /// Same, whatever the answer's body is.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub fn get_text(&self, path: &str) -> Result<String> {
        let client = Client { namespace: Some(self.namespace.clone()), token: None };
        Ok(client.request("GET", &format!("http://{}{path}", self.http), &[], None)?.expect(200)?.body)
    }

    /// Packets that the server has dropped, as it says itself, by metric with its labels.
    ///
    /// # Errors
    /// As [`get_text`](Self::get_text).
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let metrics = self.get_text("/metrics")?;
        let named = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            let losses =
                ["penstock_drops_total{", "penstock_source_dropped_total{", "penstock_tapped_total{outcome=\"full\""];
            let is_loss = losses.iter().any(|loss| name.starts_with(loss));
            Some((name.to_owned(), value.parse::<f64>().ok().filter(|_| is_loss)? as u64))
        };
        Ok(metrics.lines().filter_map(named).filter(|(_, packets)| *packets > 0).collect())
    }

    /// Writes another configuration; `more` takes the place of the settings' own. The server reads it at SIGHUP.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, settings: &Settings, more: &str) -> Result<()> {
        let settings = Settings { more: more.into(), ..settings.clone() };
        let file = self.directory.path().join("penstock.toml");
        Ok(std::fs::write(file, toml(&settings, &self.pins()))?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The server is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.as_ref().context("no process")?.signal(signal)
    }

    /// Waits for the end of the server after a signal.
    ///
    /// # Errors
    /// It did not end in time; with its log.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + STOP;
        loop {
            let child = self.process.as_mut().and_then(Running::child).context("no process")?;
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the server did not end in {STOP:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and the end.
    ///
    /// # Errors
    /// As [`wait_end`](Self::wait_end).
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait_end()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.take());
        // A killed server leaves its bpffs mounted; the directory could not be removed.
        let pins = self.pins();
        if pins.exists() {
            let _ = std::process::Command::new("umount").arg("--lazy").arg(&pins).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the server ---\n{}\n---", self.log());
        }
    }
}

fn toml(settings: &Settings, pins: &Path) -> String {
    // Debug output of strings and addresses in a list is TOML.
    let http: Vec<_> = settings.http.iter().map(SocketAddr::to_string).collect();
    let (more_http, more) = without_section(&settings.more, "[http]");
    format!(
        "[http]\nlisten = {http:?}\n{more_http}[kernel]\ninterfaces = {:?}\nmode = {:?}\npin_dir = {:?}\n{more}",
        settings.interfaces, settings.mode, pins
    )
}

/// Lines of a section, and all others: TOML has each section once.
fn without_section(text: &str, section: &str) -> (String, String) {
    let (mut of_section, mut others, mut inside) = (String::new(), String::new(), false);
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == section;
        }
        let part = if inside { &mut of_section } else { &mut others };
        if line != section {
            part.push_str(line);
            part.push('\n');
        }
    }
    (of_section, others)
}
