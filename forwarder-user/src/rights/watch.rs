//! When a right ends that was given: at its end, which whoever holds it knows; or before, because the configuration has
//! changed, or whoever is asked by HTTP has changed his mind.

use std::{future::pending, sync::Arc, time::Duration};

use penstock_engine::clock::boottime_ns;
use tokio::time::sleep;

use super::{Asker, By, Denied, Grant, Rights, channel, users};

/// When somebody is asked again who could not tell.
const AGAIN: Duration = Duration::from_secs(1);

/// Of a grant that may be taken away: holds nothing of the session.
pub struct Watch {
    rights: Rights,
    by: By,
    asker: Arc<Asker>,
    alive: channel::Receiver<()>,
}

impl Grant {
    /// Time that is left of it. `None`: it has no end.
    pub fn left(&self) -> Option<Duration> {
        self.ends_ns.map(|ends| Duration::from_nanos(ends.saturating_sub(boottime_ns())))
    }

    /// Waits for its end. For ever, if it has none.
    pub async fn expired(&self) {
        while let Some(left) = self.left() {
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
        pending().await
    }
}

impl Rights {
    /// What tells that a grant is taken away. `None`: it cannot be.
    pub fn watch(&self, grant: &Grant) -> Option<Watch> {
        let (asker, alive) = (grant.asker.clone()?, grant.alive.as_ref()?.subscribe());
        Some(Watch { rights: self.clone(), by: grant.by.clone(), asker, alive })
    }
}

impl Watch {
    /// Waits until the right is taken away, which is `true`, or nobody has it any more.
    pub async fn is_taken_away(mut self) -> bool {
        let mut changed = self.rights.0.changed.subscribe();
        let mut alive = self.alive.clone();
        loop {
            let recheck = self.recheck();
            let due = async {
                match recheck {
                    Some(after) => sleep(after).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Whoever holds it never sends: it is the end of all who do.
                _ = alive.changed() => return false,
                changed = changed.changed() => if changed.is_err() { return false },
                () = due => {}
            }
            while let Err(why) = self.judge().await {
                if !matches!(why, Denied::Unknown(_)) {
                    return true;
                }
                tokio::select! {
                    _ = self.alive.changed() => return false,
                    () = sleep(AGAIN) => {}
                }
            }
        }
    }

    /// How long until somebody is asked again.
    fn recheck(&self) -> Option<Duration> {
        let every = self.rights.current().http.recheck_ms;
        (matches!(self.by, By::Callback(_)) && every > 0).then(|| Duration::from_millis(every))
    }

    async fn judge(&self) -> Result<(), Denied> {
        let (current, inner, asker) = (self.rights.current(), Arc::clone(&self.rights.0), Arc::clone(&self.asker));
        let callback = matches!(self.by, By::Callback(_));
        let judged = async move {
            if !callback {
                return users::find(&current.auth.users, &asker, &inner.hasher).await.map(drop);
            }
            if !current.http.decides(asker.action) {
                return Err(Denied::Wrong("he is not asked any more"));
            }
            // One who cannot be reached ends nothing that he has allowed.
            match inner.callback.ask_again(&current.http, &asker).await {
                Err(Denied::Unknown(_)) => Ok(()),
                other => other.map(drop),
            }
        };
        self.rights.on_runtime(judged).await
    }
}
