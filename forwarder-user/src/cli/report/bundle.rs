//! A compressed archive of text files (POSIX.1-1988, ustar).

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};

/// Of which an archive is made.
const BLOCK: usize = 512;
/// Folder that all files are in.
const FOLDER: &str = "penstock-report";
/// Where the checksum stands in a header, and its length.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Files that are gathered.
pub(super) struct Bundle {
    bytes: Vec<u8>,
    time: u64,
}

impl Bundle {
    pub(super) fn new(now: SystemTime) -> Self {
        let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { bytes: Vec::new(), time }
    }

    /// A file, by a name of ours of less than 80 bytes.
    pub(super) fn add(&mut self, name: &str, text: &str) {
        self.bytes.extend(header(&format!("{FOLDER}/{name}"), text.len(), self.time));
        self.bytes.extend(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Writes all of them; only the owner may read it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write(mut self, path: &Path) -> io::Result<()> {
        // Two empty blocks are the end.
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut packed = GzEncoder::new(file, Compression::default());
        packed.write_all(&self.bytes)?;
        packed.finish()?.sync_all()
    }
}

fn header(name: &str, len: usize, time: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (size, time) = (format!("{len:011o}"), format!("{time:011o}"));
    let fields: [(usize, &str); 9] = [
        (0, name),
        (100, "0000600"),
        (108, "0000000"),
        (116, "0000000"),
        (124, &size),
        (136, &time),
        (CHECKSUM.start, "        "),
        // A regular file.
        (156, "0"),
        (257, "ustar\x0000"),
    ];
    for (at, text) in fields {
        block.iter_mut().skip(at).zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[CHECKSUM].copy_from_slice(sum.as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_it() {
        let file = std::env::temp_dir().join(format!("penstock-bundle-{}.tar.gz", std::process::id()));
        let mut bundle = Bundle::new(SystemTime::UNIX_EPOCH);
        bundle.add("a.txt", "one\n");
        bundle.add("b/c.txt", &"x".repeat(1000));
        bundle.add("empty", "");
        bundle.write(&file).unwrap();
        let tar = |option: &str| Command::new("tar").arg(option).arg(&file).output().unwrap();
        let (listed, all) = (tar("-tzf"), tar("-xOzf"));
        std::fs::remove_file(&file).unwrap();
        assert!(listed.status.success(), "{listed:?}");
        let names = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(names, "penstock-report/a.txt\npenstock-report/b/c.txt\npenstock-report/empty\n");
        assert_eq!(String::from_utf8(all.stdout).unwrap(), format!("one\n{}", "x".repeat(1000)));
    }
}
