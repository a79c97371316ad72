//! The committed inputs: `corpus/TARGET/*`, and fixtures of the crates.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::targets::Target;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Those of a target by file, in the order of their names. Names with `regression` did harm once.
///
/// # Errors
/// There are none: a target without a corpus is not fuzzed.
pub fn of(target: &Target) -> Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    let own = folder().join(target.name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fixtures = target.fixtures.iter().map(|path| root.join(path));
    for folder in std::iter::once(own).chain(fixtures) {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
            inputs.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    inputs.sort();
    anyhow::ensure!(!inputs.is_empty(), "{} has no corpus", target.name);
    Ok(inputs)
}

/// Keeps an input that did harm, for good. Returns where.
///
/// # Errors
/// It cannot be written.
pub fn keep(target: &Target, input: &[u8]) -> Result<PathBuf> {
    let number = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let path = folder().join(target.name).join(format!("regression-{number:016x}"));
    fs::write(&path, input)?;
    Ok(path)
}
