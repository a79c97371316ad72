//! Firefox, by WebDriver BiDi over a WebSocket on the loopback of its own network namespace.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::connection::Connection;
use super::{Autoplay, CALL, wait_until, websocket};
use crate::netns::NetNs;

/// What it writes when it can be spoken to.
const READY: &str = "WebDriver BiDi listening on ws://";
/// On a busy machine.
const START: Duration = Duration::from_secs(60);

/// What makes it quiet and scriptable, as lines of `user.js`. It asks nobody, fetches nothing, and has a fake camera.
const PREFERENCES: &[(&str, &str)] = &[
    ("app.normandy.enabled", "false"),
    ("app.update.enabled", "false"),
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.newtabpage.enabled", "false"),
    ("browser.safebrowsing.malware.enabled", "false"),
    ("browser.safebrowsing.phishing.enabled", "false"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("browser.startup.page", "0"),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("extensions.update.enabled", "false"),
    ("media.gmp-manager.updateEnabled", "false"),
    ("media.navigator.permission.disabled", "true"),
    ("media.navigator.streams.fake", "true"),
    ("network.captive-portal-service.enabled", "false"),
    ("network.connectivity-service.enabled", "false"),
    // Pages of the host that counts as secure would ask for their pictures by https.
    ("security.mixed_content.upgrade_display_content", "false"),
    ("services.settings.server", "\"data:,\""),
    ("toolkit.telemetry.enabled", "false"),
];

/// The command that starts it. `PENSTOCK_FIREFOX` names another executable than `firefox-esr`. Pages of `camera_for` may
/// use the fake camera although they are from `http`.
pub fn prepare(place: &NetNs, profile: &Path, camera_for: Option<&str>, autoplay: Autoplay) -> Result<Command> {
    let mut preferences: Vec<(&str, String)> =
        PREFERENCES.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    // 0: all; 1: without sound (the default of a new profile); 5: none.
    preferences.push(("media.autoplay.default", if autoplay == Autoplay::All { "0" } else { "1" }.into()));
    if let Some(origin) = camera_for {
        let host = origin.trim_start_matches("http://").split(':').next().unwrap_or_default();
        preferences.push(("dom.securecontext.allowlist", format!("{host:?}")));
    }
    let lines: Vec<String> =
        preferences.iter().map(|(name, value)| format!("user_pref({name:?}, {value});\n")).collect();
    std::fs::write(profile.join("user.js"), lines.concat())?;
    let executable: OsString = std::env::var_os("PENSTOCK_FIREFOX").unwrap_or_else(|| "firefox-esr".into());
    let mut command = place.command(executable);
    command
        .args(["--headless", "--no-remote", "--new-instance", "--remote-debugging-port", "0", "--profile"])
        .arg(profile)
        .arg("about:blank")
        .env("HOME", profile);
    Ok(command)
}

/// Connects to it as soon as it listens; `log` is what it has written.
pub fn connect(place: &NetNs, log: impl Fn() -> String) -> Result<Connection> {
    let address = wait_until("Firefox listens", START, || {
        let log = log();
        let line = log.lines().find_map(|line| Some(line.split_once(READY)?.1.trim().to_owned()));
        Ok(line)
    })?;
    let address: SocketAddr = address.parse().with_context(|| address.clone())?;
    let stream = place.run(|| TcpStream::connect(address))?;
    let (send, messages) = websocket::open(stream, "/session")?;
    let connection = Connection::new(send, messages);
    connection.call("", "session.new", json!({ "capabilities": {} }), START)?;
    connection.call("", "session.subscribe", json!({ "events": ["log.entryAdded"] }), CALL)?;
    Ok(connection)
}

/// A tab.
#[derive(Debug)]
pub struct Tab {
    connection: Arc<Connection>,
    context: String,
}

impl Tab {
    /// An empty one; `script` runs in its pages before their own scripts.
    pub fn new(connection: Arc<Connection>, script: &str) -> Result<Self> {
        let answer = connection.call("", "browsingContext.create", json!({ "type": "tab" }), CALL)?;
        let context = answer["context"].as_str().context("a tab without an id")?.to_owned();
        if !script.is_empty() {
            let function = format!("() => {{ {script} }}");
            let params = json!({ "functionDeclaration": function, "contexts": [context] });
            connection.call("", "script.addPreloadScript", params, CALL)?;
        }
        Ok(Self { connection, context })
    }

    fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.connection.call("", method, params, CALL)
    }

    /// Begins to go to `url`.
    pub fn navigate(&self, url: &str) -> Result<()> {
        let params = json!({ "context": self.context, "url": url, "wait": "interactive" });
        self.call("browsingContext.navigate", params).map(drop)
    }

    /// See `Page::evaluate` and `Page::tap`. By way of JSON, since BiDi has a notation of its own for values.
    pub fn evaluate(&self, expression: &str, gesture: bool) -> Result<Value> {
        let params = json!({
            "expression": format!("Promise.resolve({expression}\n).then(value => JSON.stringify(value))"),
            "target": { "context": self.context },
            "awaitPromise": true,
            "resultOwnership": "none",
            "userActivation": gesture,
        });
        let answer = self.call("script.evaluate", params)?;
        if answer["type"] == "exception" {
            bail!("`{expression}` throws {}", answer["exceptionDetails"]["text"].as_str().unwrap_or("something"));
        }
        match answer["result"]["value"].as_str() {
            Some(text) => Ok(serde_json::from_str(text)?),
            None => Ok(Value::Null),
        }
    }

    /// A PNG, as base64.
    pub fn screenshot(&self) -> Result<Value> {
        Ok(self.call("browsingContext.captureScreenshot", json!({ "context": self.context }))?["data"].take())
    }

    /// Makes the window as large as a device.
    pub fn be_like(&self, width: u32, height: u32) -> Result<()> {
        let viewport = json!({ "width": width, "height": height });
        self.call("browsingContext.setViewport", json!({ "context": self.context, "viewport": viewport })).map(drop)
    }

    /// Presses and releases a key.
    pub fn press(&self, key: &str) -> Result<()> {
        let actions = ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key }));
        let keyboard = json!([{ "type": "key", "id": "keyboard", "actions": actions }]);
        self.call("input.performActions", json!({ "context": self.context, "actions": keyboard })).map(drop)
    }

    /// Closes it; the page's `pagehide` handlers run.
    pub fn close(&self) -> Result<()> {
        self.call("browsingContext.close", json!({ "context": self.context })).map(drop)
    }

    /// Lines of its console.
    pub fn console(&self) -> Vec<String> {
        self.connection.console(&self.context)
    }
}
