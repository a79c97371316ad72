//! What a server and `penstock doctor` say and do where the kernel's verifier refuses a program: the real verifier
//! refuses a program of a broken object. Needs root.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::{
    netns::{End, NetNs, Running, veth},
    server::binary,
};

/// `exit`, and `r0 = *(u64 *)(r0 + 0)`, which reads from no memory at all.
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
const BROKEN: [u8; 8] = [0x79, 0, 0, 0, 0, 0, 0, 0];

/// What a server has logged, and the pipe into which it goes on.
struct Log {
    text: String,
    pipe: BufReader<ChildStderr>,
}

/// A host that has an object with one broken program, and a peer.
struct Place {
    host: NetNs,
    peer: NetNs,
    directory: tempfile::TempDir,
}

impl Place {
    fn new(broken: &str) -> Result<Self> {
        let (host, peer) = (NetNs::new("host")?, NetNs::new("peer")?);
        veth(
            End { namespace: &host, interface: "eth0", addresses: &["10.71.0.1/24"] },
            End { namespace: &peer, interface: "eth0", addresses: &["10.71.0.2/24"] },
        )?;
        let directory = tempfile::Builder::new().prefix("penstock-tiers-").tempdir()?;
        let built =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/ebpf/bpfel-unknown-none/release/penstock-datapath");
        let mut object = fs::read(built).with_context(|| format!("{built}: cargo xtask build-ebpf"))?;
        break_program(&mut object, broken)?;
        fs::write(directory.path().join("object"), object)?;
        Ok(Self { host, peer, directory })
    }

    fn pins(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = self.host.command(binary()?);
        command.args([name, "--interface", "eth0"]).arg("--pin-dir").arg(self.pins());
        command.env("PENSTOCK_TEST_OBJECT", self.directory.path().join("object"));
        Ok(command)
    }

    fn doctor(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command("doctor")?.args(arguments).output()?)
    }

    fn diagnosis(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.doctor(&[arguments, &["--json"]].concat())?;
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A server that is ready, and what it logged until then.
    fn serve(&self) -> Result<(Running, Log)> {
        let mut command = self.command("serve")?;
        // Another host is told of the sessions only with a right to it.
        command.env("PENSTOCK_API_TOKEN", "observer");
        let mut server = Running::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let pipe = server.child().and_then(|child| child.stderr.take()).context("no log")?;
        let mut log = Log { text: String::new(), pipe: BufReader::new(pipe) };
        while log.pipe.read_line(&mut log.text)? > 0 {
            if log.text.contains("ready after") {
                return Ok((server, log));
            }
        }
        anyhow::bail!("the server ended:\n{}", log.text)
    }

    /// Publishes and plays; what carried the sessions.
    fn carried_by(&self) -> Result<String> {
        let mut command = self.peer.command(binary()?);
        command.args(["verify", "--json", "--url", "http://10.71.0.1:8080", "--seconds", "2", "--viewers", "1"]);
        let output = command.args(["--max-latency-ms", "5000", "--api-token", "observer"]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        ensure!(report["ok"] == true, "{report:#}");
        let mut lines = report["checks"].as_array().into_iter().flatten();
        let line = lines.find(|line| line["check"] == "carried by").context("nothing carries them")?;
        Ok(line["found"].as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A killed server leaves its bpffs mounted.
        if self.pins().exists() {
            let _ = Command::new("umount").arg("--lazy").arg(self.pins()).stderr(Stdio::null()).status();
        }
    }
}

/// Changes what a program does before it ends into something that no verifier takes.
fn break_program(object: &mut [u8], name: &str) -> Result<()> {
    let number = |object: &[u8], at: usize, len: usize| -> Result<usize> {
        let bytes = object.get(at..at + len).context("a short ELF file")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    // Elf64_Ehdr: e_shoff, e_shentsize, e_shnum. Elf64_Shdr: sh_type, sh_offset, sh_size, sh_link.
    let (headers, size, count) = (number(object, 40, 8)?, number(object, 58, 2)?, number(object, 60, 2)?);
    let header = |section: usize| headers + section * size;
    const SYMTAB: usize = 2;
    let symtab = (0..count).find(|section| number(object, header(*section) + 4, 4).is_ok_and(|kind| kind == SYMTAB));
    let symtab = header(symtab.context("no symbols")?);
    let (symbols, length) = (number(object, symtab + 24, 8)?, number(object, symtab + 32, 8)?);
    let names = number(object, header(number(object, symtab + 40, 4)?) + 24, 8)?;
    // Elf64_Sym: st_name, st_shndx, st_value, st_size.
    for symbol in (symbols..symbols + length).step_by(24) {
        let text = names + number(object, symbol, 4)?;
        if object.get(text..text + name.len() + 1) != Some(format!("{name}\0").as_bytes()) {
            continue;
        }
        let section = header(number(object, symbol + 6, 2)?);
        let start = number(object, section + 24, 8)? + number(object, symbol + 8, 8)?;
        let code = object.get_mut(start..start + number(object, symbol + 16, 8)?).context("a short ELF file")?;
        let exits: Vec<usize> = (8..code.len()).step_by(8).filter(|at| code[*at..*at + 8] == EXIT).collect();
        ensure!(!exits.is_empty(), "{name} never ends");
        exits.iter().for_each(|exit| code[exit - 8..*exit].copy_from_slice(&BROKEN));
        return Ok(());
    }
    anyhow::bail!("no program {name}")
}

fn kernel(report: &Value) -> Result<&Value> {
    let mut findings = report["findings"].as_array().into_iter().flatten();
    findings.find(|finding| finding["check"] == "kernel").with_context(|| format!("{report:#}"))
}

fn verifier(finding: &Value) -> Vec<&str> {
    finding["verifier"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn a_refused_datapath_is_one_sentence_and_three_lines() -> Result<()> {
    let place = Place::new("penstock_egress")?;
    let report = place.diagnosis(&[])?;
    let finding = kernel(&report)?;
    let found = finding["found"].as_str().unwrap_or_default();
    ensure!(finding["ok"] == false && finding["need"] == "kernel", "{finding:#}");
    ensure!(found.contains("the kernel's verifier refuses penstock_egress: R0 "), "{finding:#}");
    ensure!(!found.contains('\n') && !found.contains("new enough"), "{finding:#}");
    let lines = verifier(finding);
    ensure!(lines.len() == 3 && found.ends_with(lines[2]), "{finding:#}");
    ensure!(report["tier"]["name"] == "userspace_xdp" && report["ok"] == false, "{report:#}");
    ensure!(report["tier"]["why"].as_str().is_some_and(|why| why.ends_with(found)), "{report:#}");
    let whole = place.diagnosis(&["--verbose"])?;
    ensure!(verifier(kernel(&whole)?).len() > 20, "--verbose has no more: {whole:#}");
    let text = place.doctor(&[])?;
    let text = String::from_utf8_lossy(&text.stdout);
    // Once where it was found, once as the reason of the tier.
    ensure!(text.matches("refuses penstock_egress").count() == 2 && text.len() < 5000, "{text}");

    let (server, log) = place.serve()?;
    let told = &log.text;
    ensure!(told.contains("no kernel engine") && told.matches("verifier: ").count() == 4, "{told}");
    ensure!(told.contains("tier: userspace by XDP ("), "{told}");
    let carried = place.carried_by()?;
    ensure!(carried.contains("userspace xdp: the kernel's verifier refuses penstock_egress"), "{carried}");
    drop(server);
    Ok(())
}

#[test]
fn without_the_short_way_everything_else_is_there() -> Result<()> {
    let place = Place::new("penstock_direct")?;
    let report = place.diagnosis(&[])?;
    let finding = kernel(&report)?;
    ensure!(finding["ok"] == false && finding["need"] == "advice", "{finding:#}");
    ensure!(report["ok"] == true && report["tier"]["name"] == "without_short_way", "{report:#}");
    let why = report["tier"]["why"].as_str().unwrap_or_default();
    ensure!(why.starts_with("the kernel's verifier refuses penstock_direct: R0 "), "{report:#}");
    ensure!(verifier(finding).len() == 3, "{finding:#}");
    ensure!(verifier(kernel(&place.diagnosis(&["--verbose"])?)?).len() > 20, "--verbose has no more");

    let (server, log) = place.serve()?;
    let told = &log.text;
    ensure!(told.contains("tier: without the short way for one viewer ("), "{told}");
    ensure!(!told.contains("no kernel engine"), "{told}");
    ensure!(place.carried_by()? == "kernel native, without the short way for one viewer", "{told}");
    let state = tests_kit::whip::Client { namespace: Some(place.host.name().into()), token: Some("observer".into()) };
    let state = state.request("GET", "http://10.71.0.1:8080/api/v1/state", &[], None)?.expect(200)?.body;
    let state: Value = serde_json::from_str(&state)?;
    ensure!(state["tier"]["name"] == "without_short_way", "{:#}", state["tier"]);
    ensure!(Path::new(&place.pins()).exists(), "no pins");
    drop(server);
    Ok(())
}
