//! Asks the kernel's verifier about the BPF object, and prints what it says: `verify-ebpf [OBJECT]`.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use aya::{EbpfLoader, programs::Xdp};

fn main() -> Result<()> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bpfel-unknown-none/release/penstock-datapath");
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(built), PathBuf::from);
    // SAFETY: no arguments, no memory.
    ensure!(unsafe { libc::geteuid() } == 0, "loading BPF programs needs root");

    let mut object = EbpfLoader::new().load_file(&path).with_context(|| {
        format!("{}: the kernel refuses a map (built by `cargo xtask build-ebpf`?)", path.display())
    })?;
    println!("program                        verified instructions   translated bytes   JIT bytes   load ms");
    for (name, program) in object.programs_mut() {
        let program: &mut Xdp = program.try_into().with_context(|| format!("{name} is no XDP program"))?;
        let start = Instant::now();
        program.load().with_context(|| format!("the verifier refuses {name}"))?;
        let loading = start.elapsed();
        let info = program.info()?;
        println!(
            "  {name:<28} {:>21} {:>18} {:>11} {:>9}",
            info.verified_instruction_count().map_or_else(|| "-".into(), |count| count.to_string()),
            info.size_translated().map_or_else(|| "-".into(), |bytes| bytes.to_string()),
            info.size_jitted(),
            loading.as_millis()
        );
    }
    Ok(())
}
