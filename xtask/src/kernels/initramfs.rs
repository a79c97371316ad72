//! The initramfs of a guest: a small system with our programs, and the modules of its kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{cpio::Archive, linux::Linux, programs::Programs};
use crate::{
    archive::failed,
    ebpf,
    process::{Outcome, root},
};

/// As in `tests/src/guest/mod.rs`.
const FOLDER: &str = "penstock";

/// Files of a system that programs read.
const SYSTEM: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("etc/os-release", "ID=penstock-guest\n"),
];

/// Writes it.
///
/// # Errors
/// Something is missing, or there is no space.
pub(super) fn write(path: &Path, linux: &Linux, programs: &Programs, fixtures: &[&str]) -> Outcome {
    let libraries = programs.libraries()?;
    let modules = linux.modules()?;
    let make = || -> io::Result<()> {
        let mut archive = Archive::create(path)?;
        for folder in ["proc", "sys", "dev", "run", "tmp", "var"] {
            archive.folder(folder)?;
        }
        archive.link("var/run", "/run")?;
        for (name, text) in SYSTEM {
            archive.data(name, text.as_bytes())?;
        }
        for (name, file) in &programs.tools {
            archive.copy(&format!("bin/{name}"), file)?;
        }
        for (name, file) in &programs.files {
            archive.copy(&format!("{FOLDER}/{name}"), file)?;
        }
        for (name, file) in &libraries {
            let place =
                if name.starts_with('/') { name.clone() } else { format!("lib/{}/{name}", programs.machine.triplet()) };
            archive.copy(&place, file)?;
        }
        for object in ebpf::OBJECTS {
            archive.copy(&format!("{FOLDER}/objects/{object}"), &programs.objects.join(object))?;
        }
        let mut names = String::new();
        for module in &modules {
            archive.data(&format!("{FOLDER}/modules.d/{}.ko", module.name), &module.data)?;
            names.push_str(&format!("{}.ko\n", module.name));
        }
        archive.data(&format!("{FOLDER}/modules"), names.as_bytes())?;
        archive.data(&format!("{FOLDER}/fixtures"), fixtures.join("\n").as_bytes())?;
        clip(&mut archive)?;
        archive.link("init", &format!("/{FOLDER}/guest"))?;
        archive.finish().map(drop)
    };
    make().map_err(|error| failed(path, &error))
}

/// The clip, where the demo looks for it: its program knows the repository's place.
fn clip(archive: &mut Archive) -> io::Result<()> {
    let folder = root().join("target/clip");
    if !folder.is_dir() {
        return Ok(());
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        archive.copy(&file.display().to_string(), file)?;
    }
    // `tests/kit/../../target`
    archive.folder(&root().join("tests/kit").display().to_string())
}
