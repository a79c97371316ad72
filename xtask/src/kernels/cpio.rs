//! An initramfs: an archive in cpio's format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Every entry begins on a multiple of this, and so does its content.
const ALIGNMENT: u64 = 4;

/// Writes entries; folders above them come by themselves. A path that was written is not written again.
pub(super) struct Archive {
    file: BufWriter<File>,
    written: u64,
    number: u32,
    there: BTreeSet<String>,
}

impl Archive {
    /// Begins a file, with a console: without one, the first process of a guest is mute.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let mut archive = Self { file, written: 0, number: 0, there: BTreeSet::new() };
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        Ok(archive)
    }

    /// A folder that stays empty.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path.trim_start_matches('/'), DIRECTORY, (0, 0), &[])
    }

    /// A file that everybody may read and run.
    pub(super) fn data(&mut self, path: &str, data: &[u8]) -> io::Result<()> {
        self.entry(path.trim_start_matches('/'), PROGRAM, (0, 0), data)
    }

    /// A copy of a file.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> io::Result<()> {
        self.data(path, &fs::read(from)?)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path.trim_start_matches('/'), LINK, (0, 0), target.as_bytes())
    }

    /// Ends it; its size in bytes.
    ///
    /// # Errors
    /// No space.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.file.flush()?;
        Ok(self.written)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.entry(above, DIRECTORY, (0, 0), &[])?;
        }
        if !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        self.number += 1;
        let len = |len: usize| u32::try_from(len).map_err(|_| io::Error::other(format!("{path} is too large")));
        let numbers =
            [self.number, mode, 0, 0, 1, 0, len(data.len())?, 0, 0, device.0, device.1, len(path.len() + 1)?, 0];
        let mut header = String::from("070701");
        numbers.iter().for_each(|number| header.push_str(&format!("{number:08x}")));
        header.push_str(path);
        header.push('\0');
        self.put(header.as_bytes())?;
        self.put(data)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let padding = (ALIGNMENT - (bytes.len() as u64) % ALIGNMENT) % ALIGNMENT;
        self.file.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        self.written += bytes.len() as u64 + padding;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_once_there() {
        let path = std::env::temp_dir().join(format!("penstock-cpio-{}", std::process::id()));
        let mut archive = Archive::create(&path).unwrap();
        archive.data("/a/b/file", b"12345").unwrap();
        archive.data("a/b/file", b"again").unwrap();
        archive.link("/a/link", "b/file").unwrap();
        let size = archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(bytes.len() as u64, size);
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (len, name_len) = (field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_len - 1]).unwrap();
            let begin = (at + 110 + name_len).next_multiple_of(4);
            names.push((name.to_owned(), bytes[begin..begin + len].to_vec()));
            at = (begin + len).next_multiple_of(4);
        }
        let names: Vec<_> = names.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
        let expected: [(&str, &[u8]); 7] = [
            ("dev", b""),
            ("dev/console", b""),
            ("a", b""),
            ("a/b", b""),
            ("a/b/file", b"12345"),
            ("a/link", b"b/file"),
            ("TRAILER!!!", b""),
        ];
        assert_eq!(names, expected);
    }
}
