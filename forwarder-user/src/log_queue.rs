//! The log's way to standard error: a bounded queue, and a thread of its own that empties it.
//!
//! Whoever logs only appends to the queue. The thread alone meets a reader that is slow, hangs or has gone, and a full
//! disk: what does not fit meanwhile, or cannot be written, is dropped and counted. Nothing else in the server waits
//! for a log line, and none ends it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait, at most: a thousand lines, for a reader that is started again.
const LIMIT: usize = 256 << 10;

/// The longest line, in bytes. What a peer or a camera says is cut before it is logged; this is for what nobody
/// thought of.
const LINE: usize = 16 << 10;

/// The process's queue, once logging has started.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Lines that wait for the thread. A handle: clones share them.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Rung at a new line, and when the thread has written the last one.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// The thread has a line in its hands.
    writing: bool,
    /// Dropped lines of which the log has told.
    told: u64,
}

/// The process's queue to standard error, whose thread runs from the first call on.
///
/// # Errors
/// No thread or no descriptor is to be had.
pub(crate) fn stderr() -> io::Result<Queue> {
    if let Some(queue) = QUEUE.get() {
        return Ok(queue.clone());
    }
    // A descriptor of our own: the lock of `std::io::stderr` would be held as long as a write hangs.
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = Queue::start(file)?;
    Ok(QUEUE.get_or_init(|| queue).clone())
}

/// Log lines that this process has dropped since its start.
pub(crate) fn dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.0.dropped.load(Relaxed))
}

/// Appends a line to the process's log, whatever its level. `false`: logging has not started.
pub(crate) fn say(line: &str) -> bool {
    QUEUE.get().map(|queue| queue.push(format!("{line}\n").as_bytes())).is_some()
}

/// Waits until everything is written, or `patience` is over. For the end of the process.
pub(crate) fn flush(patience: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(patience);
    }
}

impl Queue {
    fn start(file: File) -> io::Result<Self> {
        let queue =
            Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0) }));
        let writer = queue.clone();
        thread::Builder::new().name("penstock-log".into()).spawn(move || writer.run(file))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_line(&self) {
        self.0.dropped.fetch_add(1, Relaxed);
    }

    fn push(&self, line: &[u8]) {
        let line: Box<[u8]> = match line.get(..LINE - 1) {
            Some(beginning) if line.len() > LINE => [beginning, b"\n"].concat().into(),
            _ => line.into(),
        };
        let mut state = self.lock();
        if state.bytes + line.len() > LIMIT {
            drop(state);
            return self.drop_line();
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.0.changed.notify_all();
    }

    /// As long as the process lives.
    fn run(self, mut file: File) {
        loop {
            let line = self.next();
            let written = write_line(&mut file, &line);
            if written.is_err() {
                self.drop_line();
            }
            let mut state = self.lock();
            state.writing = false;
            let untold = self.0.dropped.load(Relaxed) - state.told;
            // Not before the queue is empty: the line that tells it would be dropped like the others.
            let tell = written.is_ok() && state.lines.is_empty() && untold > 0;
            if tell {
                state.told += untold;
            }
            drop(state);
            self.0.changed.notify_all();
            if tell {
                tracing::warn!(lines = untold, "the log works again; what it could not take meanwhile is lost");
            }
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return line;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A whole line, however many writes it takes. Others who have the same terminal or pipe open may have made it
/// non-blocking.
fn write_line(file: &mut File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match file.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_room(file)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for_room(file: &File) -> io::Result<()> {
    match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes what is written at once as one line. Never fails, and never waits for the outlet.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::OwnedFd};

    use super::*;

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "not so that {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn lost(queue: &Queue) -> u64 {
        queue.0.dropped.load(Relaxed)
    }

    #[test]
    fn a_reader_that_hangs_costs_lines_and_nobody_waits() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(File::from(OwnedFd::from(writer))).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let lines = 2 * LIMIT / line.len();
        for _ in 0..lines {
            queue.push(&line);
        }
        assert!(lost(&queue) > 0 && queue.lock().bytes <= LIMIT);
        queue.flush(Duration::from_millis(1));
        let kept = lines - usize::try_from(lost(&queue)).unwrap();
        // The reader wakes up, and gets whole lines.
        let mut text = vec![0; kept * line.len()];
        reader.read_exact(&mut text).unwrap();
        assert!(text.chunks(line.len()).all(|one| one == line));
        queue.flush(Duration::from_secs(30));
        assert!(queue.lock().lines.is_empty());
    }

    #[test]
    fn a_reader_that_has_gone_and_a_full_disk_are_counted() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        for file in [File::from(OwnedFd::from(writer)), File::options().write(true).open("/dev/full").unwrap()] {
            let queue = Queue::start(file).unwrap();
            queue.push(b"one\n");
            queue.push(b"two\n");
            wait_until("both are counted", || lost(&queue) == 2);
            assert_eq!(queue.lock().told, 0, "nothing was written, so nothing was told");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(File::from(OwnedFd::from(writer))).unwrap();
        queue.push(&vec![b'y'; 10 * LINE]);
        let mut text = vec![0; LINE];
        reader.read_exact(&mut text).unwrap();
        queue.flush(Duration::from_secs(30));
        assert_eq!(lost(&queue), 0);
    }
}
