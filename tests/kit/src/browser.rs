//! Headless browsers for the tests: one process per peer, each in its own network namespace. Chromium is driven by the
//! DevTools protocol, Firefox by WebDriver BiDi.

mod chromium;
mod connection;
mod firefox;
mod page;
mod stats;
pub mod watch;
mod websocket;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::netns::NetNs;
use connection::Connection;
use page::Tab;
pub use page::{Page, Picture, contrast, difference};
pub use stats::{KINDS, Stats, count};

/// A call that does no work of its own answers within this time, even on a busy machine.
const CALL: Duration = Duration::from_secs(30);

/// What plays before its viewer has touched the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autoplay {
    /// Everything, as for a page that its viewer likes.
    All,
    /// Only what makes no sound, as for a page that he has never seen.
    Muted,
}

/// Of which make a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    Chromium,
    Firefox,
}

/// A running browser. Dropping it closes it.
#[derive(Debug)]
pub struct Browser {
    name: String,
    make: Make,
    child: Child,
    connection: Arc<Connection>,
    stderr: Arc<Mutex<String>>,
    /// The profile goes after the browser.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium in a namespace, with an empty profile. With `camera_for` it has a fake camera and microphone, and
    /// that origin (`http://ip:port`) counts as secure, so that its pages may use them; without, it is a mere viewer, who
    /// hides its addresses behind mDNS names. `PENSTOCK_CHROMIUM` names another executable than `chromium`.
    ///
    /// # Errors
    /// There is no Chromium, it does not start, or it does not answer within 30 s.
    pub fn launch(name: &str, place: &NetNs, camera_for: Option<&str>) -> Result<Self> {
        Self::launch_chromium(name, place, camera_for, Autoplay::All)
    }

    /// As [`launch`](Self::launch), and whether videos begin by themselves.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn launch_chromium(name: &str, place: &NetNs, camera_for: Option<&str>, autoplay: Autoplay) -> Result<Self> {
        let policy = match autoplay {
            Autoplay::All => "no-user-gesture-required",
            Autoplay::Muted => "user-gesture-required",
        };
        let mut arguments = vec![format!("--autoplay-policy={policy}")];
        if let Some(origin) = camera_for {
            arguments.extend(chromium::CAMERA.iter().map(|flag| (*flag).to_owned()));
            arguments.push(format!("--unsafely-treat-insecure-origin-as-secure={origin}"));
        }
        Self::launch_with(name, place, &arguments)
    }

    /// Starts Chromium with a fake camera, which knows `host` by `address`, and believes in a certificate whose public key
    /// has this SHA-256 in Base64. No origin counts as secure for any other reason.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn launch_for_https(name: &str, place: &NetNs, host: &str, address: &str, key_hash: &str) -> Result<Self> {
        let mut arguments: Vec<String> = chromium::CAMERA.iter().map(|flag| (*flag).to_owned()).collect();
        arguments.push("--autoplay-policy=no-user-gesture-required".into());
        arguments.push(format!("--host-resolver-rules=MAP {host} {address}"));
        arguments.push(format!("--ignore-certificate-errors-spki-list={key_hash}"));
        Self::launch_with(name, place, &arguments)
    }

    fn launch_with(name: &str, place: &NetNs, arguments: &[String]) -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("penstock-chromium-").tempdir()?;
        let (command, connection) = chromium::prepare(place, profile.path(), arguments)?;
        let (child, stderr) = start(command)?;
        let connection = Arc::new(connection);
        let browser =
            Self { name: name.to_owned(), make: Make::Chromium, child, connection, stderr, _profile: profile };
        browser
            .connection
            .call("", "Browser.getVersion", json!({}), CALL)
            .with_context(|| format!("browser {name} does not start; it wrote:\n{}", browser.log()))?;
        Ok(browser)
    }

    /// Starts Firefox likewise. Its camera is always a fake one.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), within 60 s.
    pub fn launch_firefox(name: &str, place: &NetNs, camera_for: Option<&str>, autoplay: Autoplay) -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("penstock-firefox-").tempdir()?;
        let (mut child, stderr) = start(firefox::prepare(place, profile.path(), camera_for, autoplay)?)?;
        let log = || lock(&stderr).clone();
        match firefox::connect(place, log) {
            Ok(connection) => {
                let connection = Arc::new(connection);
                Ok(Self { name: name.to_owned(), make: Make::Firefox, child, connection, stderr, _profile: profile })
            }
            Err(error) => {
                kill_group(&child);
                let _ = child.wait();
                Err(error.context(format!("browser {name} does not start; it wrote:\n{}", log())))
            }
        }
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
        let connection = Arc::clone(&self.connection);
        let tab = match self.make {
            Make::Chromium => Tab::Chromium(chromium::Tab::new(connection, script)?),
            Make::Firefox => Tab::Firefox(firefox::Tab::new(connection, script)?),
        };
        Page::open(&self.name, tab, url)
    }

    /// What the browser wrote to stderr (its last 64 KB).
    #[must_use]
    pub fn log(&self) -> String {
        lock(&self.stderr).clone()
    }

    /// Kills the browser at once, as a crash or a closed laptop would: pages get no chance to say goodbye.
    pub fn kill(self) {
        kill_group(&self.child);
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
        let method = if self.make == Make::Chromium { "Browser.close" } else { "browser.close" };
        let _ = self.connection.call("", method, json!({}), Duration::from_secs(3));
        if !self.ended(Duration::from_secs(3)) {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}

/// Starts a browser, of which the log is kept.
fn start(mut command: Command) -> Result<(Child, Arc<Mutex<String>>)> {
    command
        // Proxies of the machine have no business in the test network.
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let executable = command.get_program().to_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", executable.display()))?;
    // Closes our copies of the child's ends, so that each side notices when the other one is gone.
    drop(command);
    let stderr = Arc::new(Mutex::new(String::new()));
    if let Some(pipe) = child.stderr.take() {
        let stderr = Arc::clone(&stderr);
        std::thread::spawn(move || collect(pipe, &stderr));
    }
    Ok((child, stderr))
}

fn kill_group(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: plain system call. The group was made for this child (`process_group(0)`), which has not been
        // waited for, so the id cannot belong to anybody else.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

fn lock(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the last 64 KB of what comes out of `pipe`.
fn collect(mut pipe: impl Read, into: &Mutex<String>) {
    let mut buffer = [0u8; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        let mut text = lock(into);
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
