//! First process of a guest of `cargo xtask kernels`: what it does is in the kernel's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock_tests::guest::main()
}
