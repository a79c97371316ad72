//! bpf-linker: is the right one there, and how to build it.

use std::{fs, process::Command};

use crate::process::{cargo, display, find, output_of, scrub};

/// The version that the BPF object is tested with.
pub(crate) const VERSION: &str = "0.13.0";

/// LLVM versions for which this bpf-linker can be built (its features `llvm-N`).
pub(crate) const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// Whether a bpf-linker is installed that reads the bitcode of LLVM `major`.
pub(crate) fn installed(major: u32) -> bool {
    let Some(path) = find("bpf-linker") else { return false };
    let runs = output_of(Command::new(&path).arg("--version")).is_some();
    runs && match fs::read(&path).ok().and_then(|binary| linked_llvm(&binary)) {
        Some(linked) => linked >= major,
        // Linked statically: upstream's own build, always of the newest LLVM.
        None => true,
    }
}

/// Major version in the name of the shared library that the binary asks for: `libLLVM.so.22.1`.
fn linked_llvm(binary: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM.so.";
    let start = binary.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits: Vec<u8> = binary[start..].iter().copied().take_while(u8::is_ascii_digit).collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

/// Builds and installs it against Debian's `llvm-N-dev`. One to two minutes on two cores.
pub(crate) fn install(major: u32) -> Command {
    let mut command = cargo();
    // The time goes to LLVM, not into the linker's own code: the cheaper build takes a third less.
    scrub(&mut command)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{major}"))
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
            "--no-default-features",
            "--features",
            &format!("llvm-{major}"),
        ]);
    command
}

/// The same as a line to type.
pub(crate) fn install_line(major: u32) -> String {
    let line = display(&install(major));
    let arguments = line.split_once(' ').map_or("", |(_, arguments)| arguments);
    format!("LLVM_PREFIX=/usr/lib/llvm-{major} cargo {arguments}")
}

#[cfg(test)]
mod tests {
    use super::linked_llvm;

    #[test]
    fn reads_the_llvm_version_from_the_needed_library() {
        assert_eq!(linked_llvm(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(linked_llvm(b"\0libc.so.6\0"), None);
    }
}
