//! The shared libraries of programs, of this machine or another.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::guest::Machine;
use crate::{archive::failed, elf, process::Outcome};

/// Finds libraries below a root.
pub(super) struct Libraries {
    folders: Vec<PathBuf>,
    machine: Machine,
}

impl Libraries {
    /// Those of a system whose root is `root`.
    pub(super) fn of(root: &Path, machine: Machine) -> Self {
        let triplet = machine.triplet();
        let folders = ["lib", "usr/lib"].iter().flat_map(|lib| [root.join(lib).join(triplet), root.join(lib)]);
        let folders = folders.chain(["lib64", "usr/lib64"].map(|lib| root.join(lib))).collect();
        Self { folders, machine }
    }

    /// The libraries that the programs need, and those that these need, by file name; the loader's place is
    /// [`Machine::loader`].
    ///
    /// # Errors
    /// One is not there.
    pub(super) fn needed(&self, programs: &[PathBuf]) -> Outcome<Vec<(String, PathBuf)>> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut queue: Vec<PathBuf> = programs.to_vec();
        while let Some(path) = queue.pop() {
            let file = fs::read(&path).map_err(|error| failed(&path, &error))?;
            let Some(names) = elf::needed(&file) else { continue };
            for name in names {
                if seen.insert(name.to_owned()) {
                    let library = self
                        .find(name)
                        .ok_or_else(|| format!("{} needs {name}, which is not there", path.display()))?;
                    queue.push(library.clone());
                    found.push((name.to_owned(), library));
                }
            }
        }
        Ok(found)
    }

    /// The loader's file.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn loader(&self) -> Outcome<PathBuf> {
        let name = self.machine.loader().rsplit('/').next().unwrap_or_default();
        self.find(name).ok_or_else(|| format!("{name} is not there"))
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
    }
}
