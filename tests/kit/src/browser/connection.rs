//! The conversation with a browser: JSON messages with numbers, by the DevTools protocol (Chromium) or by WebDriver BiDi
//! (Firefox). How they travel is the caller's: pipes, a WebSocket.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How many console lines are kept for the report of a failed test.
const CONSOLE_LINES: usize = 500;

/// Sends one message.
pub type Send = Box<dyn FnMut(&[u8]) -> io::Result<()> + std::marker::Send>;

/// The driver's end.
pub struct Connection {
    to_browser: Mutex<Send>,
    next_id: AtomicU64,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connection").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits for which answer. `None` once the browser has closed its end.
    waiting: Mutex<Waiting>,
    /// What pages wrote to their consoles, exceptions included, oldest first: (page, text).
    console: Mutex<Vec<(String, String)>>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    calls: HashMap<u64, mpsc::Sender<Value>>,
}

impl Connection {
    /// Starts the reader thread; it ends with the messages, when the browser closes its end.
    #[must_use]
    pub fn new(to_browser: Send, messages: impl Iterator<Item = Vec<u8>> + std::marker::Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || reader.read(messages));
        Self { to_browser: Mutex::new(to_browser), next_id: AtomicU64::new(1), shared }
    }

    /// Calls `method` and waits for its result. `session` is a target session of DevTools, or empty.
    ///
    /// # Errors
    /// The browser is gone, answers with an error, or does not answer within `timeout`.
    pub fn call(&self, session: &str, method: &str, params: Value, timeout: Duration) -> Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !session.is_empty() {
            message["sessionId"] = json!(session);
        }
        let (sender, answer) = mpsc::channel();
        {
            let mut waiting = lock(&self.shared.waiting);
            if waiting.closed {
                bail!("{method}: the browser is gone");
            }
            waiting.calls.insert(id, sender);
        }
        let bytes = serde_json::to_vec(&message)?;
        (lock(&self.to_browser))(&bytes).with_context(|| format!("{method}: the browser is gone"))?;
        let answer = answer.recv_timeout(timeout);
        lock(&self.shared.waiting).calls.remove(&id);
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{method}: no answer within {timeout:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("{method}: the browser is gone"),
        };
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error} {}", answer["message"].as_str().unwrap_or_default());
        }
        Ok(answer["result"].take())
    }

    /// Console lines and exceptions of one page so far, oldest first: a target session of DevTools, a context of BiDi.
    #[must_use]
    pub fn console(&self, page: &str) -> Vec<String> {
        let console = lock(&self.shared.console);
        console.iter().filter(|(of, _)| of == page).map(|(_, text)| text.clone()).collect()
    }
}

impl Shared {
    fn read(&self, messages: impl Iterator<Item = Vec<u8>>) {
        for message in messages {
            if let Ok(message) = serde_json::from_slice::<Value>(&message) {
                self.take(message);
            }
        }
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.calls.clear();
    }

    fn take(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(sender) = lock(&self.waiting).calls.remove(&id) {
                // The caller may have given up already.
                let _ = sender.send(message);
            }
            return;
        }
        if let Some(text) = console_text(&message) {
            let mut console = lock(&self.console);
            if console.len() < CONSOLE_LINES {
                let page = message["sessionId"].as_str().or(message["params"]["source"]["context"].as_str());
                console.push((page.unwrap_or_default().to_owned(), text));
            }
        }
    }
}

/// The line that a console call, an uncaught exception or a log entry puts into the report.
fn console_text(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.consoleAPICalled" => {
            let words = params["args"].as_array()?.iter().map(|argument| match &argument["value"] {
                Value::String(text) => text.clone(),
                Value::Null => argument["description"].as_str().unwrap_or("null").to_owned(),
                value => value.to_string(),
            });
            Some(format!("{}: {}", params["type"].as_str()?, words.collect::<Vec<_>>().join(" ")))
        }
        "Runtime.exceptionThrown" => Some(format!("uncaught: {}", exception_text(&params["exceptionDetails"]))),
        "Log.entryAdded" => Some(format!("{}: {}", params["entry"]["level"].as_str()?, params["entry"]["text"])),
        "log.entryAdded" => Some(format!("{}: {}", params["level"].as_str()?, params["text"].as_str()?)),
        _ => None,
    }
}

/// The most telling text of `Runtime.ExceptionDetails`.
pub(super) fn exception_text(details: &Value) -> String {
    let description = details["exception"]["description"].as_str();
    description.or(details["text"].as_str()).unwrap_or("exception without a text").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
