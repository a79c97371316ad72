//! What the kernel's verifier says of a program that it refuses, made short: its log may have thousands of lines.
//! All of it is logged under [`TARGET`], at level debug.

use std::{fmt, io};

/// Where whole logs go.
pub const TARGET: &str = "penstock::verifier";

/// Lines of a log that are shown unless more is asked for.
const LINES: usize = 3;

/// Characters of a line that are shown: states of registers may go on for thousands.
const WIDTH: usize = 200;

/// Beginnings of lines that the verifier adds at the end, with statistics.
const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];

/// Bytes of a log that are kept, its end: aya reads up to 16 MB.
const KEPT: usize = 1 << 20;

/// A program that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Name of the program.
    pub program: String,
    /// What the system call said.
    pub error: String,
    /// The verifier's log. Empty where the refusal was not the verifier's.
    pub log: String,
}

impl Refusal {
    /// Logs the verifier's `log` under [`TARGET`], and keeps it.
    pub fn new(program: &str, error: &io::Error, mut log: String) -> Self {
        if let Some(start) = log.len().checked_sub(KEPT) {
            let start =
                log.bytes().skip(start).position(|byte| byte == b'\n').map_or(log.len(), |line| start + line + 1);
            log.drain(..start);
        }
        tracing::debug!(target: TARGET, program, "the verifier's log:\n{}", log.trim_end());
        Self { program: program.to_owned(), error: error.to_string(), log }
    }

    /// The line that says why, or what the system call said.
    pub fn reason(&self) -> String {
        self.lines().last().cloned().unwrap_or_else(|| self.error.clone())
    }

    /// The line that says why, with the two before it, which tell where: an instruction or a line of source.
    pub fn lines(&self) -> Vec<String> {
        let told = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start));
        let mut lines: Vec<String> = self.log.lines().rev().map(str::trim).filter(told).take(LINES).map(cut).collect();
        lines.reverse();
        lines
    }
}

impl fmt::Display for Refusal {
    /// One sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, error, log } = self;
        match log.is_empty() {
            true => write!(f, "the kernel refuses {program}: {error}"),
            false => write!(f, "the kernel's verifier refuses {program}: {}", self.reason()),
        }
    }
}

/// A text of several lines as its first and its last ones, where it is a log with something before it.
pub fn cut_short(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    match lines.split_first() {
        Some((first, rest)) if rest.len() > LINES => {
            tracing::debug!(target: TARGET, "{text}");
            let last = rest[rest.len() - LINES..].iter().map(|line| cut(line));
            [cut(first), "…".into()].into_iter().chain(last).collect::<Vec<_>>().join("\n")
        }
        _ => text.to_owned(),
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(log: String) -> Refusal {
        Refusal { program: "penstock_ingress".into(), error: "Permission denied (os error 13)".into(), log }
    }

    /// As 6.1 ends its log of an access that it does not understand.
    const END: &str = "\
; let row = unsafe { &*rows.add(place) }; @ tower.rs:171
2101: (0f) r1 += r2                   ; R1_w=map_value(off=0,ks=4,vs=134040,umax=4294967295) R2_w=scalar()
2102: (79) r3 = *(u64 *)(r1 +0)
R1 unbounded memory access, make sure to bounds check any such access
verification time 48211 usec
stack depth 416+0+32
processed 31337 insns (limit 1000000) max_states_per_insn 8 total_states 900 peak_states 800 mark_read 70

";

    #[test]
    fn a_long_log_is_cut_to_what_matters() {
        let line = format!("1: (b7) r0 = 0    ; R0_w=0 R10=fp0 {}\n", "fp-8=mmmmmmmm ".repeat(40));
        let long = refusal(line.repeat(200) + END);
        assert!(long.log.len() > 94_000);
        let lines = long.lines();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("2101: (0f) r1 += r2") && lines[1].starts_with("2102: "), "{lines:?}");
        assert_eq!(lines[2], "R1 unbounded memory access, make sure to bounds check any such access");
        assert_eq!(
            long.to_string(),
            "the kernel's verifier refuses penstock_ingress: R1 unbounded memory access, make sure to bounds check \
             any such access"
        );
        let wide = refusal(format!("{}\nlast\n", "ä".repeat(5000)));
        assert_eq!(wide.lines()[0].chars().count(), WIDTH + 1);
    }

    #[test]
    fn the_end_of_an_endless_log_is_kept() {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let kept = Refusal::new("penstock_ingress", &error, "ä 0: (b7) r0 = 0\n".repeat(200_000) + END);
        assert!(kept.log.len() <= KEPT && kept.log.starts_with("ä 0: ") && kept.lines().len() == 3);
        assert_eq!(Refusal::new("penstock_ingress", &error, "no line".repeat(200_000)).log, "");
    }

    #[test]
    fn errors_with_logs_are_cut_short() {
        assert_eq!(cut_short("one: two"), "one: two");
        assert_eq!(cut_short(&format!("failed\n{}last", "line\n".repeat(9000))), "failed\n…\nline\nline\nlast");
    }

    #[test]
    fn short_logs_are_whole() {
        let stack =
            refusal("combined stack size of 9 calls is 544. Too large\nprocessed 0 insns (limit 1000000)\n".into());
        assert_eq!(stack.lines(), ["combined stack size of 9 calls is 544. Too large"]);
        let none = refusal(String::new());
        assert_eq!(none.lines(), [""; 0]);
        assert_eq!(none.to_string(), "the kernel refuses penstock_ingress: Permission denied (os error 13)");
        assert_eq!(none.reason(), none.error);
    }
}
