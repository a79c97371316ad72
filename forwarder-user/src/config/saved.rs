//! Streams that the API has added for good: a file of their own, so that nobody's configuration is written by a program.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::Value;

use super::{Config, ConfigError};

impl Config {
    /// Adds the streams that are kept in `api.streams_file`; they win over those of the same name.
    ///
    /// # Errors
    /// The file cannot be read, or has a mistake.
    pub fn with_saved_streams(mut self) -> Result<Self, ConfigError> {
        let path = self.api.streams_file.clone();
        let table = read(&path).map_err(|error| ConfigError::Read { path: path.clone(), error })?;
        if table.is_empty() {
            return Ok(self);
        }
        let origin = path.display().to_string();
        let parse = |error| ConfigError::Parse { origin: origin.clone(), error: Box::new(error) };
        let saved: Self =
            toml::Table::from_iter([("streams".to_owned(), toml::Value::Table(table))]).try_into().map_err(parse)?;
        self.streams.extend(saved.streams);
        self.check(&origin)?;
        Ok(self)
    }
}

/// The document of a stream that is kept, with its secrets. `None`: it is not.
pub fn document(path: &Path, name: &str) -> io::Result<Option<Value>> {
    Ok(read(path)?.get(name).and_then(|stream| serde_json::to_value(stream).ok()))
}

/// Keeps a stream from now on, or not any more.
///
/// # Errors
/// The file cannot be read or written, or the document has no place in TOML.
pub fn write(path: &Path, name: &str, stream: Option<&Value>) -> io::Result<()> {
    let mut all = read(path)?;
    match stream {
        Some(stream) => {
            let value = toml::Value::try_from(stream).map_err(io::Error::other)?;
            all.insert(name.to_owned(), value);
        }
        None => drop(all.remove(name)),
    }
    let text = toml::to_string(&toml::Table::from_iter([("streams".to_owned(), toml::Value::Table(all))]));
    let text = text.map_err(io::Error::other)?;
    replace(path, &[b"# Written by penstock's API.\n", text.as_bytes()])
}

/// Gives a file, which only its owner may read, other content: whole or not at all, whenever the machine stops.
///
/// # Errors
/// What the system says.
pub(crate) fn replace(path: &Path, content: &[&[u8]]) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that is left from before may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    content.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> io::Result<toml::Table> {
    if path.as_os_str().is_empty() {
        return Ok(toml::Table::new());
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(toml::Table::new()),
        Err(error) => return Err(error),
    };
    // What the parser says would show the line, and with it a password.
    let table: toml::Table = text.parse().map_err(|_| io::Error::other("it is no TOML"))?;
    match table.get("streams") {
        Some(toml::Value::Table(streams)) => Ok(streams.clone()),
        Some(_) => Err(io::Error::other("`streams` is no table")),
        None => Ok(toml::Table::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn streams_come_back_with_their_passwords_and_nobody_else_reads_them() {
        let path = std::env::temp_dir().join(format!("penstock-saved-{}.toml", std::process::id()));
        let _ = fs::remove_file(&path);
        let camera = json!({ "source": "rtsp://u:secret@192.0.2.1/a", "on_demand": true });
        write(&path, "door", Some(&camera)).unwrap();
        write(&path, "gate", Some(&json!({ "source": "rtsp://192.0.2.2/" }))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(document(&path, "door").unwrap(), Some(camera));
        let text = format!("[api]\nstreams_file = {path:?}\n[streams.door]\nsource = \"rtsp://192.0.2.9/\"");
        let config = Config::parse(&text, "t").unwrap().with_saved_streams().unwrap();
        assert!(config.streams["door"].on_demand && config.streams.len() == 2);
        write(&path, "gate", None).unwrap();
        assert_eq!(document(&path, "gate").unwrap(), None);
        fs::write(&path, "nonsense secret").unwrap();
        let error = Config::parse(&text, "t").unwrap().with_saved_streams().unwrap_err().to_string();
        assert!(!error.contains("nonsense"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
