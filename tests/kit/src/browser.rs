//! Headless Chromium for the tests: one browser process per peer, each in its own network namespace, driven by the
//! DevTools protocol over a pipe.

mod cdp;
mod page;
mod stats;
pub mod watch;

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::netns::NetNs;
use cdp::Connection;
pub use page::{Page, Picture, contrast, difference};
pub use stats::{KINDS, Stats, count};

/// A DevTools call that does no work of its own answers within this time, even on a busy machine.
const CALL: Duration = Duration::from_secs(30);

/// Flags that make Chromium quiet and scriptable.
const FLAGS: &[&str] = &[
    "--headless=new",
    // The tests run as root in namespaces of their own; the sandbox needs namespaces that it cannot have there.
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-quic",
    "--disable-breakpad",
    // A page behind another one must run at full speed.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
];

/// Flags that give it a fake camera and microphone, and every page leave to use them.
const CAMERA: &[&str] = &["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

/// A running browser. Dropping it closes it.
#[derive(Debug)]
pub struct Browser {
    name: String,
    child: Child,
    connection: Arc<Connection>,
    stderr: Arc<Mutex<String>>,
    /// The profile goes after the browser.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium in a namespace, with an empty profile. With `camera_for` it has a fake camera and microphone, and that origin (`http://ip:port`)
    /// counts as secure, so that its pages may use them; without, it is a mere viewer, who hides its addresses behind
    /// mDNS names. `PENSTOCK_CHROMIUM` names another executable than `chromium`.
    ///
    /// # Errors
    /// There is no Chromium, it does not start, or it does not answer within 30 s.
    pub fn launch(name: &str, place: &NetNs, camera_for: Option<&str>) -> Result<Self> {
        let camera = camera_for.map(|origin| format!("--unsafely-treat-insecure-origin-as-secure={origin}"));
        let mut arguments: Vec<String> = vec![];
        if camera.is_some() {
            arguments.extend(CAMERA.iter().map(|flag| (*flag).to_owned()));
        }
        arguments.extend(camera);
        Self::launch_with(name, place, &arguments)
    }

    /// Starts Chromium with a fake camera, which knows `host` by `address`, and believes in a certificate whose public key
    /// has this SHA-256 in Base64. No origin counts as secure for any other reason.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn launch_for_https(name: &str, place: &NetNs, host: &str, address: &str, key_hash: &str) -> Result<Self> {
        let mut arguments: Vec<String> = CAMERA.iter().map(|flag| (*flag).to_owned()).collect();
        arguments.push(format!("--host-resolver-rules=MAP {host} {address}"));
        arguments.push(format!("--ignore-certificate-errors-spki-list={key_hash}"));
        Self::launch_with(name, place, &arguments)
    }

    fn launch_with(name: &str, place: &NetNs, arguments: &[String]) -> Result<Self> {
        let executable = std::env::var_os("PENSTOCK_CHROMIUM").unwrap_or_else(|| "chromium".into());
        let profile = tempfile::Builder::new().prefix("penstock-chromium-").tempdir()?;
        let (commands, to_browser) = std::io::pipe()?;
        let (from_browser, answers) = std::io::pipe()?;
        let mut command = place.command(&executable);
        command
            .args(arguments)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // Proxies of the machine have no business in the test network.
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .env_remove("HTTP_PROXY")
            .env_remove("HTTPS_PROXY")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        hand_over(&mut command, commands.into(), answers.into());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", executable.display()))?;
        // Closes our copies of the child's ends, so that each side notices when the other one is gone.
        drop(command);
        let stderr = Arc::new(Mutex::new(String::new()));
        if let Some(pipe) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            std::thread::spawn(move || collect(pipe, &stderr));
        }
        let connection = Arc::new(Connection::new(to_browser, from_browser));
        let browser = Self { name: name.to_owned(), child, connection, stderr, _profile: profile };
        browser
            .connection
            .call("", "Browser.getVersion", json!({}), CALL)
            .with_context(|| format!("browser {name} does not start; it wrote:\n{}", browser.log()))?;
        Ok(browser)
    }

    /// Name given at launch, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens `url` in a new tab and waits until its document is loaded.
    ///
    /// # Errors
    /// The page cannot be fetched within 30 s.
    pub fn open(&self, url: &str) -> Result<Page> {
        self.open_with(url, "")
    }

    /// As [`open`](Self::open); `script` runs in the page before its own scripts.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(&self, url: &str, script: &str) -> Result<Page> {
        Page::open(&self.name, Arc::clone(&self.connection), url, script)
    }

    /// What the browser wrote to stderr (its last 64 KB).
    #[must_use]
    pub fn log(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills the browser at once, as a crash or a closed laptop would: pages get no chance to say goodbye.
    pub fn kill(self) {
        self.kill_group();
    }

    fn kill_group(&self) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: plain system call. The group was made for this child (`process_group(0)`), which has not been
            // waited for, so the id cannot belong to anybody else.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    }

    /// Waits for the browser's end; `false` when it still runs after `patience`.
    fn ended(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.connection.call("", "Browser.close", json!({}), Duration::from_secs(3));
        if !self.ended(Duration::from_secs(3)) {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

/// Makes `commands` and `answers` the child's descriptors 3 and 4.
fn hand_over(command: &mut Command, commands: OwnedFd, answers: OwnedFd) {
    let set_up = move || {
        // Both may sit on 3 or 4 already: move them out of the way before the numbers are taken.
        let (commands, answers) = (above(commands.as_raw_fd())?, above(answers.as_raw_fd())?);
        place(commands, 3)?;
        place(answers, 4)
    };
    // SAFETY: between fork and exec the closure only calls fcntl and dup2, which are async-signal-safe.
    unsafe { command.pre_exec(set_up) };
}

/// A copy of `fd` with a number of at least 10, closed on exec.
fn above(fd: RawFd) -> std::io::Result<RawFd> {
    // SAFETY: plain system call on a descriptor that the caller owns.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) })
}

/// Makes `to` a copy of `fd` that survives exec.
fn place(fd: RawFd, to: RawFd) -> std::io::Result<()> {
    // SAFETY: plain system call; in the forked child nothing else uses descriptor `to`.
    check(unsafe { libc::dup2(fd, to) }).map(drop)
}

fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// Keeps the last 64 KB of what comes out of `pipe`.
fn collect(mut pipe: impl Read, into: &Mutex<String>) {
    let mut buffer = [0u8; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        if text.len() > 64 << 10 {
            let cut = (text.len() - (64 << 10)..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.drain(..cut);
        }
    }
}

/// Calls `probe` until it returns a value. An error of `probe` is only told when the time is over.
///
/// # Errors
/// `what` did not come true within `patience`; the message has the last answer of `probe`.
pub fn wait_until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= patience {
            match last {
                Some(error) => return Err(error.context(format!("{what}: not within {patience:?}"))),
                None => bail!("{what}: not within {patience:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
