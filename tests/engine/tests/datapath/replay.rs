//! Replay list, roll-over counter and index estimation over sequences of packets (RFC 3711 §3.3).

use anyhow::{Context, Result};
use forwarder_common::{Counter, ExtendedSeq, seq::REPLAY_WINDOW};
use tests_kit::srtp::Random;

use crate::fixture::{Expect, Media, World};

const WINDOW: u64 = REPLAY_WINDOW as u64;
const CYCLE: u64 = 1 << 16;

/// A publisher whose first packet had index `first`, and what happens to packets by index.
struct Story {
    world: World,
}

impl Story {
    fn starting_after(first: u64) -> Result<Self> {
        let mut world = World::new()?;
        for publisher in &mut world.publishers {
            publisher.first = first;
        }
        world.reset()?;
        Ok(Self { world })
    }

    /// Sends the packet with `index` on both publishers.
    fn send(&mut self, index: u64, expect: impl Fn(&Media) -> Expect) -> Result<()> {
        for publisher in self.world.publishers.clone() {
            let media = Media::at(&publisher, index);
            self.world.run(&media.bytes(), &expect(&media)).with_context(|| format!("index {index:#x}"))?;
        }
        Ok(())
    }

    fn opens(&mut self, index: u64) -> Result<()> {
        self.send(index, Media::redirect)
    }

    fn drops(&mut self, index: u64, why: Counter) -> Result<()> {
        self.send(index, |_| Expect::Drop(why))
    }

    /// A packet that carries the sequence number of `index` but a wrong tag.
    fn forge(&mut self, index: u64, why: Counter) -> Result<()> {
        for publisher in self.world.publishers.clone() {
            let mut frame = Media::at(&publisher, index).frame();
            *frame.payload.last_mut().context("tag")? ^= 1;
            self.world.run(&frame.build(), &Expect::Drop(why)).with_context(|| format!("forged {index:#x}"))?;
        }
        Ok(())
    }
}

#[test]
fn each_packet_is_taken_once() -> Result<()> {
    let mut story = Story::starting_after(1000)?;
    for index in 1001..1020 {
        story.opens(index)?;
        story.drops(index, Counter::DropReplayed)?;
    }
    for index in 1000..1020 {
        story.drops(index, Counter::DropReplayed)?;
    }
    Ok(())
}

#[test]
fn window_ends_where_it_says() -> Result<()> {
    let mut story = Story::starting_after(1000)?;
    let highest = 1000 + 2 * WINDOW;
    story.opens(highest)?;
    story.drops(highest - WINDOW, Counter::DropTooOld)?;
    story.opens(highest - WINDOW + 1)?;
    story.drops(highest - WINDOW + 1, Counter::DropReplayed)?;
    story.opens(highest - 1)?;
    story.drops(highest - WINDOW - 1, Counter::DropTooOld)
}

#[test]
fn reordering_within_the_window_loses_nothing() -> Result<()> {
    let mut story = Story::starting_after(5000)?;
    let mut indices: Vec<u64> = (5001..5001 + 400).collect();
    let mut random = Random::new(3);
    // Everybody moves by less than the window.
    for block in indices.chunks_mut(WINDOW as usize / 2) {
        for i in (1..block.len()).rev() {
            block.swap(i, random.below(i + 1));
        }
    }
    for index in indices {
        story.opens(index)?;
    }
    Ok(())
}

#[test]
fn roll_over_forward() -> Result<()> {
    let mut story = Story::starting_after(5 * CYCLE - 3)?;
    for index in 5 * CYCLE - 2..5 * CYCLE + 3 {
        story.opens(index)?;
    }
    Ok(())
}

#[test]
fn reordering_across_the_roll_over() -> Result<()> {
    let wrap = 5 * CYCLE;
    let mut story = Story::starting_after(wrap - 10)?;
    for index in [wrap + 1, wrap - 2, wrap, wrap - 5, wrap + 3, wrap - 1, wrap + 2, wrap - 9] {
        story.opens(index)?;
    }
    // Back and forth again: every one of them is known in its own cycle.
    for index in [wrap + 1, wrap - 2, wrap, wrap - 5, wrap + 3, wrap - 1, wrap + 2, wrap - 9, wrap - 10] {
        story.drops(index, Counter::DropReplayed)?;
    }
    story.opens(wrap - 8)
}

#[test]
fn gap_of_nearly_half_a_cycle() -> Result<()> {
    for first in [3 * CYCLE + 7, 3 * CYCLE + 0x9000, 3 * CYCLE + 0xffff] {
        let mut story = Story::starting_after(first)?;
        // 2^15 - 1 ahead is still ahead; 2^15 + 2 ahead looks like a packet from the past.
        story.opens(first + 0x7fff)?;
        story.drops(first + 0x7fff + 0x8002, Counter::DropTooOld)?;
        story.opens(first + 0x7fff + 0x7fff)?;
    }
    Ok(())
}

#[test]
fn no_index_before_the_first_or_beyond_the_last() -> Result<()> {
    let mut story = Story::starting_after(2)?;
    // Sequence number 0xffff would be index -1; the packet was sealed with ROC 0.
    story.drops(0xffff, Counter::DropTooOld)?;
    story.opens(3)?;

    let last = ExtendedSeq::MAX.0;
    let mut story = Story::starting_after(last - 2)?;
    story.opens(last - 1)?;
    story.opens(last)?;
    // Sequence number 0 would be index 2^48.
    story.drops(0, Counter::DropTooOld)?;
    story.drops(last, Counter::DropReplayed)
}

#[test]
fn forged_packets_move_nothing() -> Result<()> {
    let wrap = 9 * CYCLE;
    let mut story = Story::starting_after(wrap - 4)?;
    story.opens(wrap - 3)?;
    for index in [wrap - 2, wrap - 1, wrap, wrap + 1, wrap + 1000, wrap + 0x7000, wrap - 200] {
        let why = if index < wrap - 4 { Counter::DropReplayed } else { Counter::DropAuthFailed };
        story.forge(index, why)?;
    }
    // The true ones still find the cycle and their place.
    for index in [wrap - 2, wrap + 1, wrap - 1, wrap] {
        story.forge(index, Counter::DropAuthFailed)?;
        story.opens(index)?;
        story.forge(index, Counter::DropReplayed)?;
    }
    Ok(())
}

/// Long random walk over several cycles against a plain list of everything seen.
#[test]
fn random_walk_agrees_with_a_list() -> Result<()> {
    let first = 2 * CYCLE - 2000;
    let mut story = Story::starting_after(first)?;
    let mut random = Random::new(11);
    // The list keeps the newest index of each residue class: one that is out of the window is a replay
    // if it is still remembered, else it is too old to tell.
    let mut newest: Vec<u64> = vec![0; REPLAY_WINDOW];
    (first - WINDOW + 1..=first).for_each(|index| newest[index as usize % REPLAY_WINDOW] = index);
    let mut seen = std::collections::HashSet::<u64>::from_iter(newest.clone());
    let mut highest = first;
    for _ in 0..6000 {
        let ahead = if random.below(50) == 0 { random.below(500) } else { random.below(3) } as u64;
        let index = highest + ahead - random.below(300) as u64;
        let remembered = newest[index as usize % REPLAY_WINDOW] == index;
        if index + WINDOW <= highest {
            story.drops(index, if remembered { Counter::DropReplayed } else { Counter::DropTooOld })?;
        } else if !seen.insert(index) {
            story.drops(index, Counter::DropReplayed)?;
        } else {
            story.opens(index)?;
            newest[index as usize % REPLAY_WINDOW] = index;
            highest = highest.max(index);
        }
    }
    Ok(())
}
