//! Users of the configuration.

use super::{Asker, By, Credentials, Denied, hasher::Hasher};
use crate::config::User;

/// Who of them is it, and may he?
pub(super) async fn find(users: &[User], asker: &Asker, hasher: &Hasher) -> Result<By, Denied> {
    if users.iter().any(|user| user.is_anybody() && may(user, asker)) {
        return Ok(By::Everybody);
    }
    let (name, password) = match &asker.credentials {
        Credentials::None => return Err(Denied::Nothing),
        Credentials::Token(_) => return Err(Denied::Wrong("nobody has this token")),
        Credentials::Digest(name, check) => {
            let known = users.iter().filter(|user| user.name == *name && user.password.hash().is_none());
            let known = known.filter(|user| !user.is_anybody()).find(|user| check(&user.password));
            return judge(known, asker);
        }
        Credentials::Password(name, password) => (name, password),
    };
    // One is checked whether or not there is a user of this name, so that the time does not tell.
    let hashed = |user: &&User| user.password.hash().is_some();
    let named = users.iter().find(|user| user.name == *name && !user.is_anybody());
    let checked = named.or_else(|| users.iter().find(hashed));
    let right = match checked.and_then(|user| user.password.hash()) {
        Some(hash) => hasher.check(hash, password).await?,
        None => checked.is_some_and(|user| user.password.matches(password.expose())),
    };
    judge(named.filter(|_| right), asker)
}

fn judge(user: Option<&User>, asker: &Asker) -> Result<By, Denied> {
    match user {
        None => Err(Denied::Wrong("nobody has this name and password")),
        Some(user) if may(user, asker) => Ok(By::User(user.name.clone())),
        Some(user) => Err(Denied::NotAllowed(format!("user {:?} may not do this, or not from there", user.name))),
    }
}

/// Is it somebody whom the configuration lets do this, from where he is?
pub(super) fn may(user: &User, asker: &Asker) -> bool {
    let here = user.addresses.is_empty() || user.addresses.iter().any(|network| network.contains(asker.address));
    here && user.permissions.iter().any(|permission| permission.allows(asker.action, &asker.stream))
}
