//! Sessions that are not connected yet: a pool, of which everybody has a share.
//!
//! Whoever posts an offer has shown nothing. So nobody is refused for those who never connect: when the pool is full,
//! the oldest of the address with the most of them makes way, first such as have not even sent an ICE check.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ids::Key;
use penstock_engine::block::Block;

/// See the module.
#[derive(Default)]
pub(super) struct HalfOpen {
    of: BTreeMap<Block, BTreeSet<Key>>,
    len: usize,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.of.values().flatten().copied()
    }

    pub(super) fn add(&mut self, from: Block, key: Key) {
        self.len += usize::from(self.of.entry(from).or_default().insert(key));
    }

    /// It is connected, or gone.
    pub(super) fn remove(&mut self, from: Block, key: Key) {
        let Some(keys) = self.of.get_mut(&from) else { return };
        self.len -= usize::from(keys.remove(&key));
        if keys.is_empty() {
            self.of.remove(&from);
        }
    }

    /// Who makes way for a new one. `is_stale`: its peer has had time to send a check, and has not. Where nobody is,
    /// whoever has more than the new one's address: nobody loses a place to his equal, who may wait.
    pub(super) fn least_deserving(
        &self,
        new: Block,
        is_stale: impl Fn(Key) -> bool,
        has_begun: impl Fn(Key) -> bool,
    ) -> Option<Key> {
        let (_, keys) = self.of.iter().max_by_key(|(_, keys)| keys.len())?;
        let stale = keys.iter().find(|key| is_stale(**key));
        let more = keys.len() > self.of.get(&new).map_or(0, BTreeSet::len);
        let fair = || keys.iter().find(|key| !has_begun(**key)).or(keys.first()).filter(|_| more);
        stale.or_else(fair).copied()
    }
}

/// How long a session may take to connect: `whole` while half of the pool is free, less the fuller it is. Who has
/// sent a check has the whole time.
pub(super) fn life(whole: Duration, used: usize, pool: usize, has_begun: bool) -> Duration {
    match () {
        () if has_begun || used * 2 < pool => whole,
        () if used * 4 < pool * 3 => whole / 2,
        () => whole / 4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn block(last: u8) -> Block {
        IpAddr::from([192, 0, 2, last]).into()
    }

    #[test]
    fn the_address_with_the_most_makes_way_first_with_those_that_nobody_uses() {
        let mut pool = HalfOpen::default();
        (0..10).for_each(|key| pool.add(block(1), key));
        (10..13).for_each(|key| pool.add(block(2), key));
        assert_eq!(pool.len(), 13);
        let (none, all) = (|_: Key| false, |_: Key| true);
        assert_eq!(pool.least_deserving(block(2), none, none), Some(0));
        assert_eq!(pool.least_deserving(block(2), none, |key| key < 4), Some(4));
        assert_eq!(pool.least_deserving(block(2), |key| key == 7, none), Some(7), "nobody came for it");
        assert_eq!(pool.least_deserving(block(1), none, none), None, "its equals stay");
        assert_eq!(pool.least_deserving(block(1), all, none), Some(0));
        assert_eq!(pool.least_deserving(block(3), none, all), Some(0));
        (0..10).for_each(|key| pool.remove(block(1), key));
        assert_eq!(pool.least_deserving(block(1), none, none), Some(10));
        (10..13).for_each(|key| pool.remove(block(2), key));
        assert_eq!((pool.len(), pool.least_deserving(block(1), all, none)), (0, None));
    }

    #[test]
    fn the_fuller_the_pool_the_shorter_the_life() {
        let whole = Duration::from_secs(16);
        let seconds = |used, begun| life(whole, used, 100, begun).as_secs();
        assert_eq!([seconds(0, false), seconds(49, false), seconds(50, false), seconds(75, false)], [16, 16, 8, 4]);
        assert_eq!(seconds(100, true), 16);
    }
}
