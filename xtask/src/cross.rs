//! Building for aarch64 on another machine: a C compiler, the libraries to link with, and Rust's standard library for
//! it, all from Debian's archive, unpacked below `target/cross` and not installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    archive::{self, Suite, failed},
    kernels::guest::Machine,
    process::{Outcome, cargo, output_of, root, scrub},
    progress::Console,
};

const MACHINE: Machine = Machine::Aarch64;

/// What runs here. The last one runs programs of that machine, such as `penstock version`.
const TOOLS: [&str; 2] = ["gcc-aarch64-linux-gnu", "qemu-user-static"];

/// What programs are linked with, and what guests have beside them.
const LIBRARIES: [&str; 6] = ["libc6-dev", "libssl-dev", "busybox-static", "iproute2", "ethtool", "ca-certificates"];

/// The tools.
pub(crate) struct Cross {
    folder: PathBuf,
    /// Rust's standard library is in the system root, not in the compiler's own.
    foreign_std: bool,
}

impl Cross {
    /// What is there, fetched first if it is not.
    ///
    /// # Errors
    /// This is no Debian, or its archive has not what is needed.
    pub(crate) fn prepare(console: &Console<'_>) -> Outcome<Self> {
        let folder = root().join("target/cross");
        let own = has_own_std();
        let cross = Self { folder, foreign_std: !own };
        let versions = if own { String::from("own") } else { debian_std()? };
        let whole = cross.folder.join("whole");
        if fs::read_to_string(&whole).unwrap_or_default() == versions {
            return Ok(cross);
        }
        let name = archive::own_suite()?;
        let tools = Suite::open(&name, Machine::HERE.debian(), false)?;
        tools.update(console)?;
        let tools = tools.fetch(&tools.with_dependencies(&TOOLS)?, console)?;
        archive::unpack(&tools, &cross.folder.join("tools"), console)?;
        let libraries = Suite::open(&name, MACHINE.debian(), true)?;
        libraries.update(console)?;
        let compiler = tools_version(&cross.folder)?;
        let runtime = format!("libgcc-{compiler}-dev");
        let mut wanted: Vec<&str> = LIBRARIES.into_iter().chain([runtime.as_str()]).collect();
        wanted.extend((!own).then_some(versions.as_str()));
        let mut packages = libraries.with_dependencies(&wanted)?;
        packages.retain(|package| !NOT_NEEDED.iter().any(|begin| package.name.starts_with(begin)));
        let files = libraries.fetch(&packages, console)?;
        archive::unpack(&files, &cross.root(), console)?;
        cross.write_wrappers(&compiler)?;
        archive::write(&whole, &versions)?;
        Ok(cross)
    }

    /// The root of a system of that machine: headers, libraries, and the programs that guests have.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// One of the wrappers, such as `strip`.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(format!("{}-{name}", MACHINE.triplet()))
    }

    /// A cargo that builds for that machine; its output is in `target/aarch64-unknown-linux-gnu`.
    pub(crate) fn cargo(&self) -> Command {
        let target = MACHINE.target();
        let (upper, lower) = (target.to_uppercase().replace('-', "_"), target.replace('-', "_"));
        let mut command = if self.foreign_std { Command::new("/usr/bin/cargo") } else { cargo() };
        if self.foreign_std {
            scrub(&mut command).current_dir(root()).env("RUSTC", DEBIAN_RUSTC);
            command.env(
                format!("CARGO_TARGET_{upper}_RUSTFLAGS"),
                format!("--sysroot={}", self.root().join("usr").display()),
            );
        }
        command
            .env(format!("CARGO_TARGET_{upper}_LINKER"), self.tool("gcc"))
            .env(format!("CC_{lower}"), self.tool("gcc"))
            .env(format!("AR_{lower}"), self.tool("ar"))
            .env("PKG_CONFIG_ALLOW_CROSS", "1")
            .env(format!("PKG_CONFIG_SYSROOT_DIR_{lower}"), self.root())
            .env(
                format!("PKG_CONFIG_LIBDIR_{lower}"),
                self.root().join("usr/lib").join(MACHINE.triplet()).join("pkgconfig"),
            );
        command
    }

    /// The tools find their parts by their own place, and their libraries by these.
    fn write_wrappers(&self, compiler: &str) -> Outcome {
        let tools = self.folder.join("tools/usr");
        let (tools, root) = (tools.display(), self.root());
        let (triplet, here) = (MACHINE.triplet(), Machine::HERE.triplet());
        let runtime = root.join("usr/lib/gcc").join(triplet).join(compiler);
        let (root, runtime) = (root.display(), runtime.display());
        for (name, more) in [
            ("gcc", format!("--sysroot={root} -B{runtime} -isystem {runtime}/include ")),
            ("ar", String::new()),
            ("strip", String::new()),
            ("readelf", String::new()),
        ] {
            let text = format!(
                "#!/bin/sh\nLD_LIBRARY_PATH={tools}/lib/{here} exec {tools}/bin/{triplet}-{name} {more}\"$@\"\n"
            );
            write_program(&self.tool(name), &text)?;
        }
        let emulators =
            ["qemu-aarch64-static", "qemu-aarch64"].map(|name| self.folder.join("tools/usr/bin").join(name));
        let emulator = emulators.iter().find(|path| path.exists()).ok_or("qemu-user-static has no qemu-aarch64")?;
        let text = format!("#!/bin/sh\nexec {} -L {root} \"$@\"\n", emulator.display());
        write_program(&self.tool("run"), &text)
    }
}

fn write_program(path: &Path, text: &str) -> Outcome {
    archive::make(path.parent().unwrap_or(path))?;
    archive::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|error| failed(path, &error))
}

/// Debian's compiler, for which its archive has standard libraries of other machines.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What dependencies bring and nothing here uses: begins of names.
const NOT_NEEDED: [&str; 7] = ["debconf", "dpkg", "libicu", "libllvm", "libxml2", "libz3", "perl-base"];

/// Whether the compiler that builds everything else can build for the machine, as with
/// `rustup target add aarch64-unknown-linux-gnu`.
fn has_own_std() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", MACHINE.target()]);
    output_of(&mut rustc).is_some_and(|folder| {
        let files = fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

/// The package with Debian's standard library, of the very version of Debian's compiler.
fn debian_std() -> Outcome<String> {
    for package in ["libstd-rust-web-dev", "libstd-rust-dev"] {
        let version = output_of(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]));
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            return Ok(format!("{package}={version}"));
        }
    }
    Err(format!(
        "no Rust compiler here can build for {}: `rustup target add {0}`, or `apt-get install rustc-web cargo-web`, for \
         which the archive has the standard library",
        MACHINE.target()
    ))
}

/// The version in the compiler's folder, such as `12`.
fn tools_version(folder: &Path) -> Outcome<String> {
    let place = folder.join("tools/usr/lib/gcc-cross").join(MACHINE.triplet());
    let entries = fs::read_dir(&place).map_err(|error| failed(&place, &error))?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.max().ok_or_else(|| format!("{} is empty", place.display()))
}
