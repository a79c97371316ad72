//! Takes over a configuration of MediaMTX, as far as it goes. `docs/from-mediamtx.md` has the table.
//!
//! | file | does |
//! | --- | --- |
//! | `value` | reads YAML |
//! | `global` | keys of the server, and what it means when they are absent |
//! | `rtsp` | its RTSP server |
//! | `users` | who may publish, play and ask |
//! | `paths` | streams |
//! | here | what it becomes |

mod global;
mod paths;
mod rtsp;
mod users;
mod value;

use std::fmt::Write as _;

use value::Value;

use super::Config;

/// A configuration of ours and what the other one says beyond it.
#[derive(Debug, Default)]
pub struct Imported {
    sections: Vec<(&'static str, Vec<Line>)>,
    streams: Vec<(String, Vec<Line>)>,
    /// Keys that could not be taken over, each with the reason.
    pub left_out: Vec<String>,
    /// What is different and needs no action.
    pub notes: Vec<String>,
}

/// A key of ours, its value as TOML, and where it comes from.
#[derive(Debug)]
struct Line {
    comment: String,
    key: &'static str,
    value: toml::Value,
}

/// Our sections, in the order in which they are written.
const SECTIONS: [&str; 10] = ["http", "media", "kernel", "limits", "rtsp", "auth", "jwt", "auth_http", "log", "debug"];

impl Imported {
    fn set(&mut self, section: &'static str, key: &'static str, value: impl Into<toml::Value>, from: &str) {
        let line = Line { comment: format!("From {from}."), key, value: value.into() };
        match self.sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, lines)) => {
                // The last one counts, as in the file that it comes from.
                lines.retain(|other| other.key != key);
                lines.push(line);
            }
            None => self.sections.push((section, vec![line])),
        }
    }

    fn leave_out(&mut self, key: &str, why: impl AsRef<str>) {
        self.left_out.push(format!("{key}: {}", why.as_ref()));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The configuration file.
    pub fn to_toml(&self, origin: &str) -> String {
        let mut text = format!(
            "# Made from {} by `penstock config import`. What is not here has its default:\n\
             # config/penstock.toml explains every key. Passwords are in the clear: mode 0600 suits this file.\n",
            one_line(origin)
        );
        for section in SECTIONS {
            if let Some((_, lines)) = self.sections.iter().find(|(name, _)| *name == section) {
                let _ = write!(text, "\n[{section}]\n");
                write_lines(&mut text, lines);
            }
        }
        for (name, lines) in &self.streams {
            let _ = write!(text, "\n[streams.{}]\n", toml_key(name));
            write_lines(&mut text, lines);
        }
        text
    }
}

fn write_lines(text: &mut String, lines: &[Line]) {
    for Line { comment, key, value } in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# {}\n{key} = {value}", one_line(comment));
    }
}

/// Text of the other file, unfit to end a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A dot would begin a table below.
fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { format!("\"{name}\"") }
}

/// Takes over what a `mediamtx.yml` says. The result is a configuration that can be used.
///
/// # Errors
/// The text is not YAML, or not a map.
pub fn import(text: &str) -> Result<Imported, String> {
    let root = Value::parse(text)?;
    if !matches!(root, Value::Map(_)) && !root.is_off() {
        return Err("it is not a map of keys".into());
    }
    let mut imported = Imported::default();
    global::take(&root, &mut imported);
    rtsp::take(&root, &mut imported);
    users::take(&root, &mut imported);
    paths::take(&root, &mut imported);
    // Whatever the other file said, what we write must be a configuration.
    match toml::from_str::<Config>(&imported.to_toml("it")) {
        Ok(config) => config.check("the imported configuration").map_err(|error| error.to_string())?,
        Err(error) => return Err(format!("the result is no configuration: {}", error.message())),
    }
    Ok(imported)
}

#[cfg(test)]
mod tests;
