//! Which viewer's track an engine event is about.

use std::collections::{HashMap, VecDeque};

use super::ids::Key;
use penstock_engine::SubscriberTrackId;

/// A track of a session.
pub(super) type Owner = (Key, usize);

/// Owners of the engine's subscriber tracks.
///
/// An engine may give a handle out again as soon as it has sent the last event of its former
/// owner, which may still be on its way to us. Events of one handle come in order and each owner
/// ends with exactly one, so the first in the queue is the one whom an event is about.
#[derive(Default)]
pub(super) struct Owners(HashMap<SubscriberTrackId, VecDeque<Owner>>);

impl Owners {
    /// The engine gave `track` to `owner`.
    pub(super) fn add(&mut self, track: SubscriberTrackId, owner: Owner) {
        self.0.entry(track).or_default().push_back(owner);
    }

    /// Whom an event is about.
    pub(super) fn of(&self, track: SubscriberTrackId) -> Option<Owner> {
        self.0.get(&track)?.front().copied()
    }

    /// Whom the last event of a track is about.
    pub(super) fn end(&mut self, track: SubscriberTrackId) -> Option<Owner> {
        let queue = self.0.get_mut(&track)?;
        let owner = queue.pop_front();
        if queue.is_empty() {
            self.0.remove(&track);
        }
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_given_out_again_still_ends_its_former_owner_first() {
        let mut owners = Owners::default();
        let track = SubscriberTrackId(5);
        owners.add(track, (1, 0));
        owners.add(track, (2, 1));
        assert_eq!(owners.of(track), Some((1, 0)));
        assert_eq!(owners.end(track), Some((1, 0)));
        assert_eq!(owners.of(track), Some((2, 1)));
        assert_eq!(owners.end(track), Some((2, 1)));
        assert_eq!(owners.end(track), None);
    }
}
