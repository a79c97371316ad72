//! Fuzzing of every parser that sees outside bytes: seeded and repeatable, on stable Rust, with a committed corpus.
//!
//! | module | does |
//! | --- | --- |
//! | `targets` | what is fuzzed, and what must hold whatever comes |
//! | `corpus` | inputs that are known: one of each kind, and those that once did harm |
//! | `mutate` | makes another input of one or two |
//! | `allocations` | how much a target allocates: cost is linear, counted in bytes and not in time |
//! | `run` | rounds of it |
//!
//! There is no coverage feedback. In its place each target says what has come of an input, as a number (an error's kind,
//! how many items of which kind); inputs with an outcome that was not seen before are kept for the rest of the run and
//! mutated further.

pub mod allocations;
pub mod corpus;
pub mod mutate;
pub mod run;
pub mod targets;
