//! The sessions: how each is found, and when its time comes. The one place that changes either.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use str0m::ice::TransId;

use super::half_open::HalfOpen;
use super::ids::{Key, random_hex};
use super::session::Session;
use penstock_engine::Role;
use penstock_engine::block::Block;
use penstock_webrtc::peer::Pair;

/// Address pairs that one session may have in the index.
const MAX_PAIRS: usize = 16;
/// A peer that has sent no check for so long after its offer may never do.
const STALE: Duration = Duration::from_secs(1);
/// SSRCs of one session that are in the index.
const MAX_SSRCS: usize = 4;
/// As long as consent (RFC 7675 §5.1): while a session's peer may be at an address, no check of another session
/// takes that from it.
const PAIR_IN_USE: Duration = Duration::from_secs(30);
/// But one who receives there may, after a silence that is longer than between any client's checks.
const QUIET: Duration = Duration::from_secs(8);
/// What connected sessions wait for (reports, looks at ICE) is due together, in steps of this: hundreds
/// of sessions wake the task fifty times a second and not a thousand times.
const TICK_MS: u64 = 20;

/// All sessions.
pub(super) struct Sessions {
    all: HashMap<Key, Box<Session>>,
    by_id: HashMap<String, Key>,
    /// By our ICE username fragment.
    by_ufrag: HashMap<String, Key>,
    by_pair: HashMap<Pair, Key>,
    /// By an SSRC under which its peer sends; of two sessions with the same, the first.
    by_ssrc: HashMap<u32, Key>,
    /// By the id of the STUN request whose answer it awaits.
    by_request: HashMap<TransId, Key>,
    /// Those that are not connected yet.
    half_open: HalfOpen,
    timers: BTreeSet<(Instant, Key)>,
    /// From when the timers of connected sessions count in steps of [`TICK_MS`].
    started: Instant,
    /// Of the latest session.
    last: Key,
    ended: Ended,
}

/// Ids of sessions that have ended lately: whoever ends them once more makes no mistake.
struct Ended {
    by: RandomState,
    /// What is left of role, stream and id; the oldest goes first.
    all: VecDeque<u64>,
}

impl Ended {
    /// As many as are remembered, 8 bytes each.
    const MOST: usize = 4096;

    fn digest(&self, id: &str, role: Role, stream: &str) -> u64 {
        self.by.hash_one((id, role, stream))
    }

    fn add(&mut self, session: &Session) {
        if self.all.len() == Self::MOST {
            self.all.pop_front();
        }
        let digest = self.digest(&session.id, session.role, &session.stream);
        self.all.push_back(digest);
    }
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            all: HashMap::new(),
            by_id: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_pair: HashMap::new(),
            by_ssrc: HashMap::new(),
            by_request: HashMap::new(),
            half_open: HalfOpen::default(),
            timers: BTreeSet::new(),
            started: Instant::now(),
            last: 0,
            ended: Ended { by: RandomState::new(), all: VecDeque::new() },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.all.get(&key).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.all.get_mut(&key).map(Box::as_mut)
    }

    /// Sessions that are not connected yet.
    pub(super) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// A session is connected.
    pub(super) fn connected(&mut self, key: Key) {
        if let Some(session) = self.all.get(&key) {
            self.half_open.remove(session.from, key);
        }
    }

    /// Who will publish a stream, if all goes well: the latest, of those who are not connected yet.
    pub(super) fn about_to_publish(&self, stream: &str) -> Option<&Session> {
        let all = self.half_open.keys().filter_map(|key| Some((key, self.get(key)?)));
        let publishers = all.filter(|(_, session)| session.role == Role::Publisher && session.stream == stream);
        publishers.max_by_key(|(key, _)| *key).map(|(_, session)| session)
    }

    /// Which session that is not connected makes way for a new one.
    pub(super) fn least_deserving(&self, new: Block, now: Instant) -> Option<Key> {
        let begun = |key| self.get(key).is_some_and(Session::has_begun);
        let old = |key| self.get(key).is_some_and(|session| now.duration_since(session.created) >= STALE);
        self.half_open.least_deserving(new, |key| old(key) && !begun(key), begun)
    }

    /// In the order in which they came.
    pub(super) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.all.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Takes in a session, which is found by its id and by its ICE username fragment from now on.
    pub(super) fn add(&mut self, session: Session) -> Key {
        self.last += 1;
        let key = self.last;
        self.by_id.insert(session.id.clone(), key);
        self.by_ufrag.insert(session.ufrag.clone(), key);
        self.half_open.add(session.from, key);
        self.all.insert(key, Box::new(session));
        key
    }

    /// Lets go of a session, and of every way that leads to it.
    pub(super) fn remove(&mut self, key: Key) -> Option<Box<Session>> {
        let session = self.all.remove(&key)?;
        if let Some(armed) = session.armed {
            self.timers.remove(&(armed, key));
        }
        self.by_id.remove(&session.id);
        self.by_ufrag.remove(&session.ufrag);
        for pair in &session.pairs {
            self.by_pair.remove(pair);
        }
        if let Some(id) = &session.request {
            self.by_request.remove(id);
        }
        self.by_ssrc.retain(|_, owner| *owner != key);
        self.half_open.remove(session.from, key);
        self.ended.add(&session);
        Some(session)
    }

    /// A short name that no other session has, and the id that starts with it.
    pub(super) fn new_id(&self) -> (String, String) {
        let taken: BTreeSet<&str> = self.all.values().map(|session| session.name.as_str()).collect();
        loop {
            let name = random_hex::<4>();
            if !taken.contains(name.as_str()) {
                let id = format!("{name}-{}", random_hex::<16>());
                return (name, id);
            }
        }
    }

    /// Whoever knows its id may change and end it.
    pub(super) fn by_id(&self, id: &str) -> Option<Key> {
        self.by_id.get(id).copied()
    }

    /// As it is shown to people.
    pub(super) fn by_name(&self, name: &str) -> Option<Key> {
        self.all.iter().find(|(_, session)| session.name == name).map(|(key, _)| *key)
    }

    /// Was there one, not long ago?
    pub(super) fn has_ended(&self, id: &str, role: Role, stream: &str) -> bool {
        self.ended.all.contains(&self.ended.digest(id, role, stream))
    }

    /// The same, if it is also of this role and stream.
    pub(super) fn find(&self, id: &str, role: Role, stream: &str) -> Option<Key> {
        let key = self.by_id(id)?;
        self.get(key).filter(|session| session.role == role && session.stream == stream).map(|_| key)
    }

    /// Whom a STUN request is for.
    pub(super) fn by_ufrag(&mut self, ufrag: &str) -> Option<(Key, &mut Session)> {
        let key = self.by_ufrag.get(ufrag).copied()?;
        Some((key, self.get_mut(key)?))
    }

    /// Whose peer sends from there.
    pub(super) fn by_pair(&self, pair: Pair) -> Option<Key> {
        self.by_pair.get(&pair).copied()
    }

    /// A session's peer has shown that it sends under this SSRC.
    pub(super) fn sends_under(&mut self, key: Key, ssrc: u32) {
        let Some(session) = self.all.get_mut(&key).filter(|session| !session.ssrcs.contains(&ssrc)) else { return };
        if session.ssrcs.len() == MAX_SSRCS {
            let oldest = session.ssrcs.remove(0);
            if self.by_ssrc.get(&oldest) == Some(&key) {
                self.by_ssrc.remove(&oldest);
            }
        }
        session.ssrcs.push(ssrc);
        self.by_ssrc.entry(ssrc).or_insert(key);
    }

    /// Who sends under this SSRC.
    pub(super) fn by_ssrc(&self, ssrc: u32) -> Option<Key> {
        self.by_ssrc.get(&ssrc).copied()
    }

    /// ICE of a session has restarted, with another username fragment of ours.
    pub(super) fn rename(&mut self, key: Key, ufrag: String) {
        let Some(session) = self.all.get_mut(&key) else { return };
        self.by_ufrag.remove(&session.ufrag);
        self.by_ufrag.insert(ufrag.clone(), key);
        session.ufrag = ufrag;
    }

    /// Which session waits for the answer to a request of ours.
    pub(super) fn waiting_for(&mut self, id: TransId) -> Option<(Key, &mut Session)> {
        let key = self.by_request.get(&id).copied()?;
        Some((key, self.get_mut(key)?))
    }

    /// A session waits for the answer with its peer's present id, and for no other any more.
    pub(super) fn update_request(&mut self, key: Key) {
        let Some(session) = self.all.get_mut(&key) else { return };
        let awaited = session.peer.awaited();
        if session.request == awaited {
            return;
        }
        if let Some(former) = std::mem::replace(&mut session.request, awaited) {
            self.by_request.remove(&former);
        }
        self.by_request.extend(awaited.map(|id| (id, key)));
    }

    /// How long the session has been silent whose media goes by `pair`.
    fn silence(&self, pair: Pair, now: Instant) -> Option<Duration> {
        let owner = self.get(self.by_pair(pair)?).filter(|owner| owner.peer.nominated() == Some(pair))?;
        owner.peer.consent().map(|consent| now.duration_since(consent))
    }

    /// Whether the session that has `pair` may have gone without a word, or was never there.
    pub(super) fn is_quiet(&self, pair: Pair, now: Instant) -> bool {
        let owner = self.by_pair(pair).and_then(|owner| self.get(owner));
        owner.is_none_or(|owner| owner.media.is_none())
            || self.silence(pair, now).is_none_or(|silence| silence >= QUIET)
    }

    /// An authenticated ICE check came from `pair`: what else comes from there is the session's. `false`: it is
    /// another's, who lives.
    pub(super) fn remember(&mut self, key: Key, pair: Pair, now: Instant) -> bool {
        match self.by_pair(pair) {
            Some(owner) if owner == key => return true,
            Some(_) if self.silence(pair, now).is_some_and(|silence| silence < PAIR_IN_USE) => return false,
            _ => {}
        }
        self.give(key, pair);
        true
    }

    /// What comes from `pair` is the session's from now on, whosever it was.
    pub(super) fn give(&mut self, key: Key, pair: Pair) {
        let Some(session) = self.all.get_mut(&key).filter(|session| !session.pairs.contains(&pair)) else { return };
        if session.pairs.len() == MAX_PAIRS {
            let chosen = session.peer.nominated();
            let place = session.pairs.iter().position(|pair| Some(*pair) != chosen).unwrap_or(0);
            let oldest = session.pairs.remove(place);
            self.by_pair.remove(&oldest);
        }
        session.pairs.push(pair);
        if let Some(former) = self.by_pair.insert(pair, key)
            && let Some(former) = self.all.get_mut(&former)
        {
            former.pairs.retain(|other| *other != pair);
        }
    }

    /// When the first of them wants its turn.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        self.timers.first().map(|first| first.0)
    }

    /// Whose turn it is, one after the other. They are to be armed again.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Key> {
        while let Some((at, key)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, key));
            if let Some(session) = self.all.get_mut(&key) {
                session.armed = None;
                return Some(key);
            }
        }
        None
    }

    /// Gives a session its turn at `wanted`, instead of when it was to have it so far.
    pub(super) fn arm(&mut self, key: Key, wanted: Instant, now: Instant) {
        let Some(session) = self.all.get_mut(&key) else { return };
        // What is overdue gets its turn in the next round, not in an endless one.
        let mut wanted = wanted.max(now + Duration::from_millis(1));
        if session.media.is_some() {
            let since = wanted.duration_since(self.started).as_millis() as u64;
            wanted = self.started + Duration::from_millis((since / TICK_MS + 1) * TICK_MS);
        }
        if session.armed == Some(wanted) {
            return;
        }
        if let Some(armed) = session.armed.replace(wanted) {
            self.timers.remove(&(armed, key));
        }
        self.timers.insert((wanted, key));
    }

    /// Nothing is left, and no way that leads to nothing.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let ways = self.by_id.len()
            + self.by_ufrag.len()
            + self.by_pair.len()
            + self.by_request.len()
            + self.by_ssrc.len()
            + self.timers.len();
        assert!(!self.all.is_empty() || ways == 0, "{ways} ways lead to sessions that are not there");
        self.all.is_empty()
    }
}
