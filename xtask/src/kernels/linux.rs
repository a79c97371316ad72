//! A kernel of the matrix, fetched and unpacked: its image, and the modules that a guest needs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::catalogue::{Kernel, Source};
use crate::{
    archive::{self, Package, Suite, failed},
    elf::Object,
    process::{Outcome, root},
    progress::Console,
};

/// What a guest asks for; what these need comes with them. Some are built into some kernels.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_net", "veth", "8021q", "af_packet", "sch_fq", "sch_netem"];

/// An unpacked kernel.
pub(super) struct Linux {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    modules: PathBuf,
}

/// The kernel, from the archive if it is not here yet or `update` is set.
///
/// # Errors
/// The archive has none, or cannot be reached.
pub(super) fn get(kernel: &Kernel, update: bool, console: &Console<'_>) -> Outcome<Linux> {
    let folder = root().join("target/kernels/linux").join(kernel.name);
    let whole = folder.join("whole");
    if update || !whole.exists() {
        let (suite, packages) = choose(kernel, console)?;
        let files = suite.fetch(&packages, console)?;
        let versions: Vec<_> = packages.iter().map(|it| format!("{} {}\n", it.name, it.version)).collect();
        let versions = versions.concat();
        if fs::read_to_string(&whole).unwrap_or_default() != versions {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
            }
            archive::unpack(&files, &folder, console)?;
            archive::write(&whole, &versions)?;
        }
    }
    let modules = ["usr/lib/modules", "lib/modules"].iter().find_map(|place| {
        let entry = fs::read_dir(folder.join(place)).ok()?.flatten().next()?;
        Some(entry.path())
    });
    let modules = modules.ok_or_else(|| format!("{} has no modules", folder.display()))?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let images = [folder.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file());
    let image = image.ok_or_else(|| format!("{} has no image of {release}", folder.display()))?;
    Ok(Linux { release, image, modules })
}

/// The packages of a kernel, and the suite that has them.
fn choose(kernel: &Kernel, console: &Console<'_>) -> Outcome<(Suite, Vec<Package>)> {
    let open = |name: &str| {
        let suite = Suite::open(name, kernel.machine.debian(), true)?;
        suite.update(console)?;
        Ok::<_, String>(suite)
    };
    let mut best: Option<(Suite, Package)> = None;
    let mut consider = |suite: Suite, package: Package| {
        if best.as_ref().is_none_or(|(_, best)| archive::higher(&package.version, &best.version)) {
            best = Some((suite, package));
        }
    };
    match kernel.source {
        Source::Meta { suites, package } => {
            for name in suites {
                let suite = open(name)?;
                if let Some(package) = suite.show(package) {
                    consider(suite, package);
                }
            }
        }
        Source::Named { suite: name, begin, end } => {
            for package in open(name)?.names(begin).into_iter().filter(|name| name.ends_with(end)) {
                let suite = open(name)?;
                if let Some(package) = suite.show(&package) {
                    consider(suite, package);
                }
            }
        }
    }
    let (suite, first) = best.ok_or_else(|| format!("the archive has no kernel {} ({})", kernel.name, kernel.from))?;
    let packages = parts(&suite, first);
    Ok((suite, packages))
}

/// The packages with files of the kernel: up to 6.18 one, later ones have image and modules apart.
fn parts(suite: &Suite, first: Package) -> Vec<Package> {
    const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
    let (mut found, mut queue) = (Vec::<Package>::new(), vec![first]);
    while let Some(package) = queue.pop() {
        let parts = package.depends.iter().filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
        queue.extend(parts.filter_map(|name| suite.show(name)));
        // A package that only names others has no version of a kernel in its name.
        let numbered = |part: &str| {
            package.name.strip_prefix(part).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if PARTS.into_iter().any(numbered) && !found.contains(&package) {
            found.push(package);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A module as the kernel loads it.
pub(super) struct Module {
    pub name: String,
    pub data: Vec<u8>,
}

impl Linux {
    /// The modules of [`MODULES`] that are not built in, each behind those that it needs.
    ///
    /// # Errors
    /// One that another one needs is missing, or cannot be unpacked.
    pub(super) fn modules(&self) -> Outcome<Vec<Module>> {
        let mut files = BTreeMap::new();
        index(&self.modules.join("kernel"), &mut files)?;
        let mut chosen = Vec::new();
        for name in MODULES {
            if files.contains_key(name) {
                choose_module(name, &files, &mut chosen)?;
            }
        }
        Ok(chosen)
    }
}

/// Files of modules by name, below a folder.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Outcome {
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn choose_module(name: &str, files: &BTreeMap<String, PathBuf>, chosen: &mut Vec<Module>) -> Outcome {
    if chosen.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = files.get(name).ok_or_else(|| format!("a module {name} is needed and not there"))?;
    let data = unpacked(path)?;
    for needed in needed(&data).ok_or_else(|| format!("{} is no module", path.display()))? {
        choose_module(&needed, files, chosen)?;
    }
    chosen.push(Module { name: name.to_owned(), data });
    Ok(())
}

/// A module's file without its compression.
fn unpacked(path: &Path) -> Outcome<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).map_err(|error| failed(path, &error)),
    };
    let output = Command::new(program).args(["--decompress", "--stdout"]).arg(path).output();
    let output = output.map_err(|error| format!("{program}: {error}: `cargo xtask setup` brings it"))?;
    if output.status.success() { Ok(output.stdout) } else { Err(format!("{program} cannot unpack {}", path.display())) }
}

/// Names of the modules that one needs: `depends=a,b` in its section `.modinfo`.
fn needed(module: &[u8]) -> Option<Vec<String>> {
    let object = Object::parse(module)?;
    let information = object.section(".modinfo")?.data;
    let field = information.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(field).ok()?.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}
