//! The `penstock` command. See `penstock --help`.

use std::process::ExitCode;

/// jemalloc's settings, which it looks up by this name: able to profile, and not doing so until asked; a
/// sample every 512 KiB.
#[cfg(feature = "heap-profile")]
// SAFETY: nothing else has this name, and the text ends in NUL, as jemalloc expects.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 46] = b"prof:true,prof_active:false,lg_prof_sample:19\0";

#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    penstock::cli::run()
}
