//! The Chrome DevTools Protocol over `--remote-debugging-pipe`: JSON messages that end with a NUL byte, which
//! Chromium reads from descriptor 3 and writes to descriptor 4. No port, no HTTP, no WebSocket, and it works from
//! any network namespace.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How many console lines are kept for the report of a failed test.
const CONSOLE_LINES: usize = 500;

/// The driver's end of the two pipes.
#[derive(Debug)]
pub struct Connection {
    to_browser: Mutex<PipeWriter>,
    next_id: AtomicU64,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits for which answer. `None` once the browser has closed its end.
    waiting: Mutex<Waiting>,
    /// What pages wrote to their consoles, exceptions included, oldest first: (session, text).
    console: Mutex<Vec<(String, String)>>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    calls: HashMap<u64, mpsc::Sender<Value>>,
}

impl Connection {
    /// Starts the reader thread; it ends when the browser closes its end.
    #[must_use]
    pub fn new(to_browser: PipeWriter, from_browser: PipeReader) -> Self {
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || reader.read(from_browser));
        Self { to_browser: Mutex::new(to_browser), next_id: AtomicU64::new(1), shared }
    }

    /// Calls `method` and waits for its result. `session` is a target session, or empty for the browser itself.
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
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        lock(&self.to_browser).write_all(&bytes).with_context(|| format!("{method}: the browser is gone"))?;
        let answer = answer.recv_timeout(timeout);
        lock(&self.shared.waiting).calls.remove(&id);
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{method}: no answer within {timeout:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("{method}: the browser is gone"),
        };
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// Console lines and exceptions of one page so far, oldest first.
    #[must_use]
    pub fn console(&self, session: &str) -> Vec<String> {
        let console = lock(&self.shared.console);
        console.iter().filter(|(of, _)| of == session).map(|(_, text)| text.clone()).collect()
    }
}

impl Shared {
    fn read(&self, from_browser: PipeReader) {
        let mut from_browser = BufReader::new(from_browser);
        let mut message = Vec::new();
        while from_browser.read_until(0, &mut message).is_ok_and(|read| read > 0) {
            if message.last() == Some(&0) {
                message.pop();
            }
            if let Ok(message) = serde_json::from_slice::<Value>(&message) {
                self.take(message);
            }
            message.clear();
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
                console.push((message["sessionId"].as_str().unwrap_or_default().to_owned(), text));
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
