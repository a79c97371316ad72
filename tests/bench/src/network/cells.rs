//! The lines that are tried: those of people, and those that have hurt.

use std::time::Duration;

use tests_kit::line::Line;

/// On whose line it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Publisher,
    Viewer,
}

/// What happens to a line besides, some seconds after the measurement has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Nothing,
    /// It carries no more than this, bit/s, for so long.
    Narrow(u64, Duration),
    /// A NAT gives its peer another port.
    NewPort,
}

/// A line, and what happens to it.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub name: &'static str,
    pub whose: Whose,
    pub line: Line,
    pub event: Event,
    /// One of the three of `--quick`.
    pub quick: bool,
}

/// How long a narrow line lets packets wait.
pub const QUEUE: Duration = Duration::from_millis(300);

const fn line(loss: u32, burst: u32, rtt_ms: u64) -> Line {
    Line {
        loss,
        burst,
        delay: Duration::from_millis(rtt_ms / 2),
        jitter: Duration::ZERO,
        reordered: 0,
        late: Duration::ZERO,
        twice: 0,
        rate: 0,
        queue: Duration::ZERO,
    }
}

const fn cell(name: &'static str, whose: Whose, line: Line) -> Cell {
    Cell { name, whose, line, event: Event::Nothing, quick: false }
}

const fn quick(mut cell: Cell) -> Cell {
    cell.quick = true;
    cell
}

const fn with(mut cell: Cell, event: Event) -> Cell {
    cell.event = event;
    cell
}

/// A line that is none of the above, but late, out of order, and says things twice.
const UNSTEADY: Line = Line {
    jitter: Duration::from_millis(60),
    reordered: 50,
    late: Duration::from_millis(30),
    twice: 20,
    ..line(0, 0, 20)
};

/// All.
pub const CELLS: [Cell; 17] = {
    use Whose::{Publisher, Viewer};
    [
        quick(cell("good, 20 ms", Viewer, line(0, 0, 20))),
        cell("viewer 1 %, 20 ms", Viewer, line(10, 0, 20)),
        cell("viewer 1 %, 100 ms", Viewer, line(10, 0, 100)),
        cell("viewer 1 %, 200 ms", Viewer, line(10, 0, 200)),
        quick(cell("viewer 5 %, 20 ms", Viewer, line(50, 0, 20))),
        cell("viewer 5 %, 100 ms", Viewer, line(50, 0, 100)),
        cell("viewer 5 %, 200 ms", Viewer, line(50, 0, 200)),
        cell("viewer 5 % in bursts of 4, 100 ms", Viewer, line(50, 4, 100)),
        cell("viewer 20 %, 20 ms", Viewer, line(200, 0, 20)),
        cell("publisher 1 %, 20 ms", Publisher, line(10, 0, 20)),
        quick(cell("publisher 5 %, 100 ms", Publisher, line(50, 0, 100))),
        cell("publisher 5 %, 200 ms", Publisher, line(50, 0, 200)),
        with(
            cell("viewer's line 300 kbit/s for 20 s", Viewer, line(0, 0, 20)),
            Event::Narrow(300_000, Duration::from_secs(20)),
        ),
        with(
            cell("publisher's line 500 kbit/s for 35 s", Publisher, line(0, 0, 20)),
            Event::Narrow(500_000, Duration::from_secs(35)),
        ),
        with(cell("publisher's NAT, another port", Publisher, line(0, 0, 20)), Event::NewPort),
        with(cell("viewer's NAT, another port", Viewer, line(0, 0, 20)), Event::NewPort),
        cell("jitter 60 ms, 5 % late by 30 ms, 2 % twice", Viewer, UNSTEADY),
    ]
};
