//! Every program of every object: does the verifier take it, after how many instructions, in what time?

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};

use crate::{FOLDER, say};

/// Lines of a verifier's log that say why: the last ones, without its statistics.
const LINES: usize = 3;

/// Loads all objects of the folder. A refusal is told, and is no error of this step.
pub fn run() -> Result<()> {
    let folder = format!("{FOLDER}/objects");
    let mut objects: Vec<_> =
        fs::read_dir(&folder).context(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    objects.sort();
    for path in objects {
        object(&path)?;
    }
    Ok(())
}

fn object(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut object = match EbpfLoader::new().load_file(path) {
        Ok(object) => object,
        Err(error) => {
            let error = anyhow::Error::new(error);
            say("refused", &[&name, &"(maps)", &format!("{error:#}")]);
            return Ok(());
        }
    };
    let mut programs: Vec<_> = object.programs_mut().collect();
    programs.sort_by_key(|(name, _)| name.to_owned());
    for (program_name, program) in programs {
        say("loading", &[&name, &program_name]);
        let start = Instant::now();
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => anyhow::bail!("{program_name} is of a kind that no object has had"),
        };
        let time = start.elapsed().as_millis();
        match loaded {
            Ok(()) => {
                let info = program.info()?;
                let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
                let (verified, translated) = (info.verified_instruction_count(), info.size_translated());
                say(
                    "program",
                    &[&name, &program_name, &number(verified), &time, &number(translated), &info.size_jitted()],
                );
            }
            Err(error) => say("refused", &[&name, &program_name, &reason(&error)]),
        }
    }
    Ok(())
}

/// In a few lines: all of a log may be 100 KB.
fn reason(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    let statistics =
        |line: &&str| ["processed ", "verification time", "stack depth"].iter().any(|begin| line.starts_with(begin));
    let lines: Vec<_> =
        log.lines().map(str::trim_end).filter(|line| !line.is_empty()).filter(|line| !statistics(line)).collect();
    format!("{io_error}: {}", lines[lines.len().saturating_sub(LINES)..].join("\n"))
}
