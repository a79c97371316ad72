//! `penstock top`: streams and sessions, again and again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
    unistd::read,
};

use super::{OK, ask::Address, output};
use crate::inspect::{Answer, Live, LiveView, Sort, live_text};

const EXAMPLES: &str = "\
Examples:
  penstock top
  penstock top --sort drops --filter studio/
  penstock top --count 2 --json | tail -1 | jq '.streams[] | {stream, viewers, bits_out_per_second}'

On a terminal: q ends, s sorts by something else, / filters (Enter ends the text, an empty one shows all).
Kernel sessions come from the maps, which needs root, and no answer from the server. Those of the userspace engine come
from the server; when it does not answer any more, as it said last, marked stale.";

/// Rows of a terminal that does not say how many it has.
const ROWS: usize = 24;
/// Lines of it that are no rows of the tables.
const OTHER_LINES: usize = 9;
/// What is written where nobody looks at a screen.
const ALL_ROWS: usize = 1 << 20;
/// Longest wait for the server's answer: what hangs must not hold up what the maps tell.
const PATIENCE: Duration = Duration::from_millis(800);
const CTRL_C: u8 = 3;
/// Takes the cursor home, and what is written replaces what was there.
const HOME: &str = "\x1b[H\x1b[J";
/// The screen of its own that programs have, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// Time between two looks, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    interval: f64,

    /// Largest first; names from A to Z
    #[arg(long, short, value_enum, default_value_t)]
    sort: Sort,

    /// Show rows that have this text in stream, session, peer or engine
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    filter: String,

    /// End after so many looks
    #[arg(long, short = 'n', value_name = "LOOKS")]
    count: Option<u64>,

    /// One JSON object a look, on a line of its own
    #[arg(long)]
    json: bool,

    /// Where the server pins its maps (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,

    #[command(flatten)]
    address: Address,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.1 and 3600".into()),
    }
}

/// Shows them until it is told to end.
///
/// # Errors
/// Neither are there maps that can be read, nor does the server answer.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let config = options.address.config_as_far_as_it_goes()?;
    let server = options.address.server(&config)?;
    let mut live = Live::new(options.pin_dir.clone().unwrap_or(config.kernel.pin_dir));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut look = || {
        let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, server.state()).await });
        let state = match asked {
            Ok(state) => state.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        live.look(Answer { url: server.url(), state })
    };
    // What cannot be shown at all is said before the screen is taken.
    let first = look()?;
    let mut shown = Shown { sort: options.sort, filter: options.filter.clone(), typing: false };
    let screen = (!options.json && io::stdin().is_terminal() && io::stdout().is_terminal()).then(Screen::enter);
    let screen = screen.transpose()?;
    let (mut view, mut looks) = (first, 1);
    loop {
        if options.json {
            shown.apply(&mut view);
            output::print_line(serde_json::to_string(&view)?)?;
        } else {
            output::print(shown.text(&view, screen.is_some()))?;
        }
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(OK);
        }
        let end = Instant::now() + Duration::from_secs_f64(options.interval);
        match &screen {
            None => std::thread::sleep(end - Instant::now()),
            Some(_) => {
                while let Some(key) = key_until(end)? {
                    if !shown.take(key) {
                        return Ok(OK);
                    }
                    output::print(shown.text(&view, true))?;
                }
            }
        }
        view = look()?;
        looks += 1;
    }
}

/// What is shown, and how.
struct Shown {
    sort: Sort,
    filter: String,
    /// The filter's text is being typed.
    typing: bool,
}

impl Shown {
    fn apply(&self, view: &mut LiveView) {
        if !self.filter.is_empty() {
            view.filter(&self.filter);
        }
        view.sort(self.sort);
    }

    fn text(&self, view: &LiveView, on_screen: bool) -> String {
        let mut view = view.clone();
        self.apply(&mut view);
        if !on_screen {
            return format!("{}\n", live_text(&view, ALL_ROWS));
        }
        let rows = rows().saturating_sub(OTHER_LINES);
        let by = format!("{:?}", self.sort).to_lowercase();
        let cursor = if self.typing { "_" } else { "" };
        let foot = format!("sorted by {by}; filter: {}{cursor}; q ends, s sorts, / filters", self.filter);
        format!("{HOME}{}\n{foot}", live_text(&view, rows))
    }

    /// `false`: the end.
    fn take(&mut self, key: u8) -> bool {
        match key {
            CTRL_C => return false,
            b'\r' | b'\n' if self.typing => self.typing = false,
            0x7f | 0x08 if self.typing => drop(self.filter.pop()),
            key if self.typing => {
                // Names of streams and addresses are of ASCII.
                self.filter.extend(Some(char::from(key)).filter(char::is_ascii_graphic));
            }
            b'q' | b'Q' => return false,
            b's' => self.sort = self.sort.next(),
            b'/' => (self.typing, self.filter) = (true, String::new()),
            _ => {}
        }
        true
    }
}

/// A terminal that gives single keys, until it is dropped.
struct Screen {
    before: Termios,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        // Ctrl-C comes as a key, so that the terminal is left as it was.
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self { before })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
        let _ = output::print(LEAVE);
    }
}

/// The next key that comes until then.
fn key_until(end: Instant) -> io::Result<Option<u8>> {
    let left = end.saturating_duration_since(Instant::now());
    let stdin = io::stdin();
    let mut wanted = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut wanted, patience) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        other => drop(other?),
    }
    let mut key = [0];
    // Not by the buffer of standard input, of which `poll` knows nothing.
    match read(stdin.as_fd(), &mut key)? {
        // Nobody types any more.
        0 => Ok(Some(b'q')),
        _ => Ok(Some(key[0])),
    }
}

fn rows() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a live `winsize`, which the call fills.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    if result == 0 && size.ws_row > 0 { size.ws_row.into() } else { ROWS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_what_is_shown() {
        let mut shown = Shown { sort: Sort::Rate, filter: String::new(), typing: false };
        assert!(shown.take(b's') && shown.sort == Sort::Packets);
        for key in *b"/cam/q\x7f\x1b" {
            assert!(shown.take(key), "a name may have any letter");
        }
        assert_eq!((shown.filter.as_str(), shown.typing), ("cam/", true));
        assert!(shown.take(b'\n') && !shown.typing && !shown.take(b'q'));
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!((seconds("0.5"), seconds("0").is_err(), seconds("nan").is_err()), (Ok(0.5), true, true));
    }
}
