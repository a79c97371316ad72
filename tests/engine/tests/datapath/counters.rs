//! No counter without a fixture that moves it.

use std::collections::HashSet;

use forwarder_common::Counter;

use crate::{ahead, classify, direct, drops, egress, faults, fixture::counters_of, ring, rows, store};

#[test]
fn every_counter_is_exercised() {
    // Lists of what the tests of each file demand to move; a test that passes has seen it move.
    let exercised: HashSet<Counter> = counters_of(&classify::fixtures())
        .into_iter()
        .chain(counters_of(&drops::fixtures()))
        .chain(direct::EXERCISED)
        .chain(egress::EXERCISED)
        .chain(faults::EXERCISED)
        .chain(ring::EXERCISED)
        .chain(ahead::EXERCISED)
        .chain(rows::EXERCISED)
        .chain(store::EXERCISED)
        .collect();
    // The kernel has no connections: tests/e2e/tests/browser_tcp.rs.
    let not_the_kernels = |counter: &&Counter| **counter == Counter::DropTcpStalled;
    let missing = Counter::ALL.iter().filter(|counter| !exercised.contains(counter) && !not_the_kernels(counter));
    let missing: Vec<&str> = missing.map(|counter| counter.name()).collect();
    assert!(missing.is_empty(), "no fixture moves {missing:?}");
}
