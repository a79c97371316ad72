//! Runs lanes of steps side by side and shows where each one is: a live picture on a terminal,
//! plain lines elsewhere. What the commands print goes to `target/setup/*.log`.

use std::{
    fs::{self, File},
    io::{IsTerminal, Read, Write},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::process::{Outcome, display, root};

type Work = Box<dyn FnOnce(&Console<'_>) -> Outcome + Send>;

/// Something that takes a while.
pub(crate) struct Step {
    name: String,
    work: Work,
}

impl Step {
    /// A step that runs one command.
    pub(crate) fn command(name: impl Into<String>, mut command: Command) -> Self {
        Self::new(name, move |console| console.run(&mut command))
    }

    /// Any other step.
    pub(crate) fn new(name: impl Into<String>, work: impl FnOnce(&Console<'_>) -> Outcome + Send + 'static) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }
}

/// Steps that follow each other.
pub(crate) type Lane = Vec<Step>;

/// What a lane does at the moment.
struct Now {
    step: String,
    since: Instant,
    line: String,
}

/// Where the commands of a step print to.
pub(crate) struct Console<'a> {
    now: &'a Mutex<Option<Now>>,
    log: File,
    log_name: String,
}

impl Console<'_> {
    /// Runs a command, its output into the log.
    ///
    /// # Errors
    /// Names the command and shows the end of the log.
    pub(crate) fn run(&self, command: &mut Command) -> Outcome {
        let name = display(command);
        self.print(&format!("$ {name}\n"));
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let (mut output, input) = std::io::pipe().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(input.try_clone().map_err(failed)?).stderr(input);
        let mut child = command.spawn().map_err(failed)?;
        // The command keeps the writing ends; the output would never end otherwise.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut buffer = [0; 8192];
        while let Ok(len @ 1..) = output.read(&mut buffer) {
            self.print(&String::from_utf8_lossy(&buffer[..len]));
        }
        let status = child.wait().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(format!("{name} failed: {status}\n{}", self.tail())) }
    }

    /// Into the log; its last line is what is shown meanwhile.
    pub(crate) fn print(&self, text: &str) {
        // A full disk shows itself in the command that fails, not here.
        let _ = (&self.log).write_all(text.as_bytes());
        let last = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty());
        if let (Some(line), Ok(mut now)) = (last, self.now.lock())
            && let Some(now) = now.as_mut()
        {
            now.line = line.chars().filter(|character| !character.is_control()).collect();
        }
    }

    fn tail(&self) -> String {
        const LINES: usize = 30;
        let text = fs::read(root().join(&self.log_name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        format!("{}\n(all of it: {})", lines[lines.len().saturating_sub(LINES)..].join("\n"), self.log_name)
    }
}

/// Runs the lanes side by side. After a failure no further step starts.
///
/// # Errors
/// Of the first step that failed.
pub(crate) fn run(lanes: Vec<Lane>) -> Outcome {
    fs::create_dir_all(root().join("target/setup")).map_err(|error| format!("target/setup: {error}"))?;
    let states: Vec<Mutex<Option<Now>>> = lanes.iter().map(|_| Mutex::new(None)).collect();
    let (stop, finished) = (AtomicBool::new(false), AtomicBool::new(false));
    let printer = Mutex::new(());
    thread::scope(|scope| {
        let screen = scope.spawn(|| show(&states, &finished, &printer));
        let workers: Vec<_> = lanes
            .into_iter()
            .zip(&states)
            .map(|(lane, now)| {
                let (stop, printer) = (&stop, &printer);
                scope.spawn(move || {
                    let outcome = lane.into_iter().try_for_each(|step| {
                        if stop.load(Ordering::Relaxed) { Ok(()) } else { one(step, now, printer) }
                    });
                    if outcome.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    outcome
                })
            })
            .collect();
        let outcomes =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a step panicked".into())));
        let outcomes: Vec<Outcome> = outcomes.collect();
        finished.store(true, Ordering::Relaxed);
        let _ = screen.join();
        outcomes.into_iter().collect()
    })
}

fn one(step: Step, now: &Mutex<Option<Now>>, printer: &Mutex<()>) -> Outcome {
    let slug: String = step.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let log_name = format!("target/setup/{slug}.log");
    let log = File::create(root().join(&log_name)).map_err(|error| format!("{log_name}: {error}"))?;
    let start = Instant::now();
    if let Ok(mut now) = now.lock() {
        *now = Some(Now { step: step.name.clone(), since: start, line: String::new() });
    }
    if !std::io::stdout().is_terminal() {
        line(printer, &format!("  … {}", step.name));
    }
    let outcome = (step.work)(&Console { now, log, log_name });
    if let Ok(mut now) = now.lock() {
        *now = None;
    }
    let mark = if outcome.is_ok() { "✓" } else { "✗" };
    line(printer, &format!("  {mark} {}  ({:.0} s)", step.name, start.elapsed().as_secs_f32()));
    outcome
}

/// Prints a line that stays, above the live ones.
fn line(printer: &Mutex<()>, text: &str) {
    let _turn = printer.lock();
    if std::io::stdout().is_terminal() {
        // Clears from here to the end of the screen: the cursor rests where the live lines start.
        println!("\x1b[J{text}");
    } else {
        println!("{text}");
    }
}

fn show(states: &[Mutex<Option<Now>>], finished: &AtomicBool, printer: &Mutex<()>) {
    let terminal = std::io::stdout().is_terminal();
    let (frame, heartbeat) = (Duration::from_millis(200), Duration::from_secs(20));
    let mut printed = Instant::now();
    while !finished.load(Ordering::Relaxed) {
        thread::sleep(frame);
        if !terminal && printed.elapsed() < heartbeat {
            continue;
        }
        printed = Instant::now();
        let lines: Vec<String> = states
            .iter()
            .filter_map(|state| {
                let now = state.lock().ok()?;
                let now = now.as_ref()?;
                let text = format!("  … {}  {:.0} s  {}", now.step, now.since.elapsed().as_secs_f32(), now.line);
                Some(text)
            })
            .collect();
        let _turn = printer.lock();
        if terminal {
            print!("\x1b[J");
            // Without wrapping: a line too long for the terminal must stay one line.
            lines.iter().for_each(|line| println!("\x1b[?7l{line}\x1b[?7h"));
            if !lines.is_empty() {
                print!("\x1b[{}A", lines.len());
            }
            let _ = std::io::stdout().flush();
        } else {
            lines.iter().for_each(|line| println!("{line}"));
        }
    }
    if terminal {
        print!("\x1b[J");
        let _ = std::io::stdout().flush();
    }
}
