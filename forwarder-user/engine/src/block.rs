//! The addresses that one stranger has at his disposal, by which shares are counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An IPv4 address, or a /64 of IPv6: whoever has one address of it has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(IpAddr);

impl Block {
    /// Of whoever cannot be told.
    pub const UNKNOWN: Block = Block(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => {
                let network = u128::from(address) & (u128::MAX << 64);
                Self(Ipv6Addr::from(network).into())
            }
        }
    }
}

/// Places of which no block may have more than its share.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    used: Mutex<HashMap<Block, usize>>,
    refused: AtomicU64,
}

/// A place. Dropped, it is free again.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    block: Block,
}

impl Shares {
    /// A quarter of all places for one block, and no less than `least`.
    pub fn of(places: usize, least: usize) -> Arc<Self> {
        Self::each((places / 4).max(least))
    }

    /// No more than `most` for one block.
    pub fn each(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// A place for the block, if its share has one.
    pub fn take(self: &Arc<Self>, block: Block) -> Option<Share> {
        let mut used = self.lock();
        let count = used.entry(block).or_default();
        if *count >= self.most {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), block })
    }

    /// How often there was none, since this was asked last.
    pub fn refused(&self) -> u64 {
        self.refused.swap(0, Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Block, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.of.lock();
        if let Some(count) = used.get_mut(&self.block) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share_and_what_is_given_back_is_free() {
        let shares = Shares::of(16, 2);
        let block = |last: u8| Block::from(IpAddr::from([192, 0, 2, last]));
        let mut taken: Vec<_> = (0..10).map(|_| shares.take(block(1))).collect();
        assert_eq!((taken.iter().flatten().count(), shares.refused(), shares.refused()), (4, 6, 0));
        assert!(shares.take(block(2)).is_some());
        taken.truncate(1);
        assert!(shares.take(block(1)).is_some());
        drop(taken);
        assert!(shares.lock().is_empty(), "nothing is remembered of who has none");
    }

    #[test]
    fn an_ipv6_network_is_one_block_and_mapped_addresses_are_ipv4() {
        let block = |text: &str| Block::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(block("2001:db8:1:2:3::4"), block("2001:db8:1:2:ffff::1"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
    }
}
