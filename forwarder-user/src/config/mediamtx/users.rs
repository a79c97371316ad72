//! Who may do what: users with passwords there, one token for each right here.

use super::{Imported, value::Value};
use crate::config::Secret;

/// Rights there, and our token for each.
const RIGHTS: [(&str, &str); 3] = [("publish", "publish_token"), ("read", "play_token"), ("api", "api_token")];

pub(super) fn take(root: &Value, out: &mut Imported) {
    if let Some(method) = root.get("authMethod").and_then(Value::text).filter(|method| *method != "internal") {
        out.leave_out(
            "authMethod",
            format!("{method:?}: there are tokens only, in [auth]; everybody may do everything"),
        );
        return;
    }
    let Some(users) = root.get("authInternalUsers") else { return };
    for (right, token) in RIGHTS {
        one_right(users.items(), right, token, out);
    }
    for (number, user) in users.items().iter().enumerate() {
        let key = format!("authInternalUsers[{number}]");
        // Profiles and, without a token, nothing else tell this host from others.
        if user.get("ips").is_some_and(|ips| !ips.is_off() && ips.texts() != ["127.0.0.1", "::1"]) {
            out.leave_out(&format!("{key}.ips"), "addresses do not decide: use the firewall");
        }
        let paths = user.get("permissions").into_iter().flat_map(Value::items).filter_map(|p| p.get("path"));
        if paths.into_iter().any(|path| path.text().is_some()) {
            out.leave_out(&format!("{key}.permissions.path"), "a token is for all streams");
        }
    }
}

/// The token of a right, from the first user that has it.
fn one_right(users: &[Value], right: &str, token: &'static str, out: &mut Imported) {
    let has = |user: &&Value| {
        let mut permissions = user.get("permissions").into_iter().flat_map(Value::items);
        permissions.any(|permission| permission.get("action").and_then(Value::text) == Some(right))
    };
    let everybody = |user: &Value| {
        user.get("user").and_then(Value::text).is_none_or(|name| name == "any")
            && user.get("ips").is_none_or(Value::is_off)
    };
    let mut holders = users.iter().filter(has);
    if users.iter().filter(has).any(everybody) {
        return;
    }
    let Some(first) = holders.find(|user| user.get("user").and_then(Value::text) != Some("any")) else {
        let who = if users.iter().any(|user| has(&user)) { "some addresses" } else { "nobody" };
        if right != "api" {
            out.leave_out("authInternalUsers", format!("{who} may {right} there: set auth.{token}, or everybody may"));
        }
        return;
    };
    let name = first.get("user").and_then(Value::text).unwrap_or_default();
    let password = first.get("pass").and_then(Value::text).unwrap_or_default();
    let hashed = name.starts_with("sha256:") || ["sha256:", "argon2:"].iter().any(|kind| password.starts_with(kind));
    if hashed || password.is_empty() || !Secret::new(password).is_token() {
        let why =
            if hashed { "is only known by its hash" } else { "is not a bearer token (A-Z a-z 0-9 - . _ ~ + / =)" };
        out.leave_out("authInternalUsers", format!("the password for {right} {why}: set auth.{token}"));
        return;
    }
    out.set("auth", token, password, &format!("the password of user {name:?}; clients send it as bearer token"));
    if holders.next().is_some() {
        out.leave_out("authInternalUsers", format!("{right}: of several users, the first one's password is the token"));
    }
}
