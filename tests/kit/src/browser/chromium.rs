//! Chromium, by the Chrome DevTools Protocol over `--remote-debugging-pipe`: messages that end with a NUL byte, which it
//! reads from descriptor 3 and writes to descriptor 4. No port, no HTTP, no WebSocket, and it works from any network
//! namespace.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::CALL;
use super::connection::{Connection, exception_text};
use crate::netns::NetNs;

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
    "--remote-debugging-pipe",
];

/// Flags that give it a fake camera and microphone, and every page leave to use them.
pub const CAMERA: &[&str] = &["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

/// `PENSTOCK_CHROMIUM` names another executable than `chromium`.
fn executable() -> OsString {
    std::env::var_os("PENSTOCK_CHROMIUM").unwrap_or_else(|| "chromium".into())
}

/// The command that starts it, and the connection to what it will start.
pub fn prepare(place: &NetNs, profile: &Path, arguments: &[String]) -> Result<(Command, Connection)> {
    let (commands, mut to_browser) = std::io::pipe()?;
    let (from_browser, answers) = std::io::pipe()?;
    let mut command = place.command(executable());
    command.args(FLAGS).args(arguments).arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
    hand_over(&mut command, commands.into(), answers.into());
    let messages = BufReader::new(from_browser).split(0).map_while(std::io::Result::ok);
    let send = move |message: &[u8]| to_browser.write_all(&[message, &[0]].concat());
    Ok((command, Connection::new(Box::new(send), messages)))
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

/// A tab, with a DevTools session attached to it.
#[derive(Debug)]
pub struct Tab {
    connection: Arc<Connection>,
    target: String,
    session: String,
}

impl Tab {
    /// An empty one; `script` runs in its pages before their own scripts.
    pub fn new(connection: Arc<Connection>, script: &str) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("DevTools answer without an id");
        let target = connection.call("", "Target.createTarget", json!({ "url": "about:blank" }), CALL)?;
        let target = text(&target["targetId"])?;
        let attach = json!({ "targetId": target, "flatten": true });
        let session = text(&connection.call("", "Target.attachToTarget", attach, CALL)?["sessionId"])?;
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            connection.call(&session, domain, json!({}), CALL)?;
        }
        connection.call(&session, "Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }), CALL)?;
        Ok(Self { connection, target, session })
    }

    fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.connection.call(&self.session, method, params, CALL)
    }

    /// Begins to go to `url`.
    pub fn navigate(&self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        match answer["errorText"].as_str() {
            Some(error) => bail!("{error}"),
            None => Ok(()),
        }
    }

    /// See `Page::evaluate` and `Page::tap`.
    pub fn evaluate(&self, expression: &str, gesture: bool) -> Result<Value> {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": gesture });
        let mut answer = self.call("Runtime.evaluate", params)?;
        if let Some(details) = answer.get("exceptionDetails") {
            bail!("`{expression}` throws {}", exception_text(details));
        }
        Ok(answer["result"]["value"].take())
    }

    /// A PNG, as base64.
    pub fn screenshot(&self) -> Result<Value> {
        Ok(self.call("Page.captureScreenshot", json!({ "format": "png" }))?["data"].take())
    }

    /// Makes the window as large as a device, with its colours.
    pub fn be_like(&self, width: u32, height: u32, phone: bool, light: bool) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let scheme = json!({ "name": "prefers-color-scheme", "value": if light { "light" } else { "dark" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).map(drop)
    }

    /// Presses and releases a key, with its text.
    pub fn press(&self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "text": key }))?;
        }
        Ok(())
    }

    /// Closes it as its user would, and waits until it is gone.
    pub fn close(&self) -> Result<()> {
        self.call("Page.close", json!({}))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let targets = self.connection.call("", "Target.getTargets", json!({}), CALL)?;
            let open = targets["targetInfos"]
                .as_array()
                .is_some_and(|all| all.iter().any(|info| info["targetId"].as_str() == Some(&self.target)));
            if !open {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the tab does not close")
    }

    /// Lines of its console.
    pub fn console(&self) -> Vec<String> {
        self.connection.console(&self.session)
    }
}
