//! One tab of a browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{CALL, Stats, chromium, firefox, wait_until};

/// A tab of either browser.
#[derive(Debug)]
pub(super) enum Tab {
    Chromium(chromium::Tab),
    Firefox(firefox::Tab),
}

/// A tab. Dropping it leaves it open; [`Page::close`] closes it.
#[derive(Debug)]
pub struct Page {
    name: String,
    tab: Tab,
}

/// Mean colour (red, green, blue; 0–255) of each cell of an 8×6 grid over the video.
pub type Picture = Vec<[f64; 3]>;

impl Page {
    pub(super) fn open(browser: &str, tab: Tab, url: &str) -> Result<Self> {
        let page = Self { name: format!("{browser} {url}"), tab };
        page.navigate(url)?;
        Ok(page)
    }

    /// Goes to `url` and waits until its document is loaded.
    ///
    /// # Errors
    /// The page cannot be fetched, or is not loaded within 30 s.
    pub fn navigate(&self, url: &str) -> Result<()> {
        match &self.tab {
            Tab::Chromium(tab) => tab.navigate(url),
            Tab::Firefox(tab) => tab.navigate(url),
        }
        .with_context(|| self.name.clone())?;
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'", CALL).map(drop)
    }

    /// Evaluates a JavaScript expression in the page; a promise is awaited. The value must be JSON.
    ///
    /// # Errors
    /// The expression throws, or has no value within 30 s.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        self.run(expression, false)
    }

    /// Clicks what the selector names, as a person does: the browser takes it for a gesture.
    ///
    /// # Errors
    /// There is no such element, or as [`evaluate`](Self::evaluate).
    pub fn tap(&self, selector: &str) -> Result<()> {
        self.run(&format!("document.querySelector({selector:?}).click()"), true).map(drop)
    }

    fn run(&self, expression: &str, gesture: bool) -> Result<Value> {
        match &self.tab {
            Tab::Chromium(tab) => tab.evaluate(expression, gesture),
            Tab::Firefox(tab) => tab.evaluate(expression, gesture),
        }
        .with_context(|| self.name.clone())
    }

    /// Presses a key that has a character.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn press(&self, key: &str) -> Result<()> {
        match &self.tab {
            Tab::Chromium(tab) => tab.press(key),
            Tab::Firefox(tab) => tab.press(key),
        }
        .with_context(|| self.name.clone())
    }

    /// Gives the page the size of a device; in Chromium also a phone's ways, and light or dark colours.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn be_like(&self, width: u32, height: u32, phone: bool, light: bool) -> Result<()> {
        match &self.tab {
            Tab::Chromium(tab) => tab.be_like(width, height, phone, light),
            Tab::Firefox(tab) => tab.be_like(width, height),
        }
        .with_context(|| self.name.clone())
    }

    /// Waits until `expression` is truthy and returns its value.
    ///
    /// # Errors
    /// It is not within `patience`; the message has the page's console.
    pub fn wait_for(&self, expression: &str, patience: Duration) -> Result<Value> {
        let truthy = |value: &Value| match value {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(_) | Value::Object(_) => true,
        };
        let probe = || Ok(Some(self.evaluate(expression)?).filter(truthy));
        wait_until(expression, patience, probe).with_context(|| self.report())
    }

    /// `RTCPeerConnection.getStats()` of the page's connection.
    ///
    /// # Errors
    /// The page has no connection.
    pub fn stats(&self) -> Result<Stats> {
        let entries = self.evaluate("window.penstock.pc.getStats().then(report => [...report.values()])")?;
        Ok(Stats::new(entries))
    }

    /// Waits until `reached` says so of the connection's statistics, and returns those.
    ///
    /// # Errors
    /// It does not within `patience`; the message has the last statistics and the page's console.
    pub fn wait_for_stats(&self, what: &str, patience: Duration, reached: impl Fn(&Stats) -> bool) -> Result<Stats> {
        let mut last = None;
        let probe = || {
            let stats = self.stats()?;
            let done = reached(&stats);
            last = Some(stats.clone());
            Ok(done.then_some(stats))
        };
        wait_until(what, patience, probe).with_context(|| {
            let last = last.map_or_else(|| "none".to_owned(), |stats| stats.to_string());
            format!("{}\nlast statistics:\n{last}", self.report())
        })
    }

    /// Mean colours of the playing video, on a grid.
    ///
    /// # Errors
    /// There is no `video` element, or it has no picture yet.
    pub fn picture(&self) -> Result<Picture> {
        let cells = self.evaluate(PICTURE)?;
        serde_json::from_value(cells).context("the video has no picture")
    }

    /// Writes a PNG of the page to `path`, directories included.
    ///
    /// # Errors
    /// The browser makes no picture, or the file cannot be written.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let data = match &self.tab {
            Tab::Chromium(tab) => tab.screenshot(),
            Tab::Firefox(tab) => tab.screenshot(),
        }
        .with_context(|| self.name.clone())?;
        let png = base64(data.as_str().context("no picture")?).context("picture is not base64")?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, png).with_context(|| path.display().to_string())
    }

    /// Closes the tab as its user would, and waits until it is gone. The page's `pagehide` handlers run.
    ///
    /// # Errors
    /// The tab is still there after 10 s.
    pub fn close(self) -> Result<()> {
        match &self.tab {
            Tab::Chromium(tab) => tab.close(),
            Tab::Firefox(tab) => tab.close(),
        }
        .with_context(|| self.name.clone())
    }

    /// Console lines and uncaught exceptions so far.
    #[must_use]
    pub fn console(&self) -> Vec<String> {
        match &self.tab {
            Tab::Chromium(tab) => tab.console(),
            Tab::Firefox(tab) => tab.console(),
        }
    }

    /// Name and console, for the message of a failure.
    #[must_use]
    pub fn report(&self) -> String {
        format!("page {}\nconsole:\n  {}", self.name, self.console().join("\n  "))
    }
}

/// Draws the video's present frame on a small canvas and reads the colours back. `null` without a frame.
const PICTURE: &str = "(() => {
    const video = document.querySelector('video');
    if (!video || video.readyState < 2 || !video.videoWidth) return null;
    const canvas = document.createElement('canvas');
    canvas.width = 8; canvas.height = 6;
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(video, 0, 0, 8, 6);
    const data = context.getImageData(0, 0, 8, 6).data, cells = [];
    for (let at = 0; at < data.length; at += 4) cells.push([data[at], data[at + 1], data[at + 2]]);
    return cells;
})()";

/// Largest difference of one colour between two pictures, 0–255.
#[must_use]
pub fn difference(one: &Picture, other: &Picture) -> f64 {
    let cells = one.iter().flatten().zip(other.iter().flatten());
    cells.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Largest difference of one colour between two cells of a picture: 0 for a blank one.
#[must_use]
pub fn contrast(picture: &Picture) -> f64 {
    let span = |colour: usize| {
        let values = || picture.iter().filter_map(move |cell| cell.get(colour).copied());
        values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min)
    };
    if picture.is_empty() { 0.0 } else { span(0).max(span(1)).max(span(2)) }
}

/// Decodes standard base64 (RFC 4648 §4), padding optional; `None` if a character is not of its alphabet.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for character in text.bytes().filter(|character| *character != b'=') {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_vectors_of_rfc_4648() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(super::base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(super::base64("Zm9*"), None);
    }
}
