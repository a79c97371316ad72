//! Limits of the process that no server can live with are refused in words.

use std::process::Command;

use anyhow::{Result, ensure};
use tests_kit::server::binary;

#[test]
fn too_few_open_files_are_refused_with_the_number() -> Result<()> {
    let mut command = Command::new("sh");
    let output = command.args(["-c", "ulimit -n 64; exec \"$0\" serve"]).arg(binary()?).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(5), "{}: {said}", output.status);
    ensure!(said.contains("open files is 64") && said.contains("320"), "{said}");
    Ok(())
}
