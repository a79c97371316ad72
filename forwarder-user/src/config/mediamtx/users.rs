//! Who may do what: users with passwords and addresses, a service by HTTP, JSON Web Tokens.

use toml::{Table, Value as Toml};

use super::{Imported, value::Value};
use crate::config::{
    Network, Pattern,
    rights::{Action, Auth},
};

/// Where nobody comes from: for what must stay closed until somebody looks at it.
const NOWHERE: &str = "0.0.0.0/32";
/// Where the file says nothing, there as here: everybody publishes and plays, this host does the rest.
const OPEN: [Action; 2] = [Action::Publish, Action::Play];

pub(super) fn take(root: &Value, out: &mut Imported) {
    if root.get("authJWTInHTTPQuery").is_some_and(|value| value.flag() == Some(false)) {
        out.set("auth", "token_in_query", false, "authJWTInHTTPQuery");
    }
    match root.get("authMethod").and_then(Value::text) {
        None | Some("internal") => internal(root, out),
        Some("http") => http(root, out),
        Some("jwt") => jwt(root, out),
        Some(other) => {
            out.leave_out(
                "authMethod",
                format!("{other:?} is none of internal, http and jwt: nobody may publish or play"),
            );
            users(vec![closed(&OPEN)], "authMethod", out);
        }
    }
}

fn users(users: Vec<Toml>, from: &str, out: &mut Imported) {
    if !users.is_empty() {
        out.set("auth", "users", users, from);
    }
}

/// Nobody may do this.
fn closed(actions: &[Action]) -> Toml {
    let permissions = actions.iter().map(|action| permission(*action, "")).collect();
    user("any", "", vec![NOWHERE.into()], permissions)
}

fn user(name: &str, password: &str, addresses: Vec<Toml>, permissions: Vec<Toml>) -> Toml {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    if !password.is_empty() {
        table.insert("password".into(), password.into());
    }
    if !addresses.is_empty() {
        table.insert("addresses".into(), addresses.into());
    }
    table.insert("permissions".into(), permissions.into());
    table.into()
}

fn permission(action: Action, stream: &str) -> Toml {
    let mut table = Table::new();
    table.insert("action".into(), name(action).into());
    if !stream.is_empty() {
        table.insert("stream".into(), stream.into());
    }
    table.into()
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Publish => "publish",
        Action::Play => "play",
        Action::Api => "api",
        Action::Metrics => "metrics",
        Action::Debug => "debug",
    }
}

/// Permissions as they stand there, and what they are for. Those of functions that are not here are nothing.
fn permissions(key: &str, list: &[Value], out: &mut Imported) -> Vec<(Action, String)> {
    let mut found = vec![];
    for entry in list {
        let Some(named) = entry.get("action").and_then(Value::text) else { continue };
        let Some(action) = Action::parse(named) else {
            if named != "playback" {
                out.leave_out(&format!("{key}.permissions"), format!("{named:?} is no action"));
            }
            continue;
        };
        let path = entry.get("path").and_then(Value::text).unwrap_or_default();
        // A star is a letter there.
        let stream = match path.strip_prefix('~') {
            None if path.contains('*') => format!("~^{}$", regex::escape(path)),
            _ => path.to_owned(),
        };
        match Pattern::new(&stream) {
            Ok(_) => found.push((action, stream)),
            Err(why) => out.leave_out(&format!("{key}.permissions.path"), why),
        }
    }
    found
}

/// `authInternalUsers`.
fn internal(root: &Value, out: &mut Imported) {
    // What is absent there is what is absent here.
    let Some(list) = root.get("authInternalUsers") else { return };
    let mut all = vec![];
    let mut named = vec![];
    for (number, entry) in list.items().iter().enumerate() {
        let key = format!("authInternalUsers[{number}]");
        let allowed = permissions(&key, entry.get("permissions").map_or(&[][..], Value::items), out);
        if allowed.is_empty() {
            continue;
        }
        named.extend(allowed.iter().map(|(action, _)| *action));
        all.push(one(&key, entry, &allowed, out));
    }
    let missing: Vec<Action> = OPEN.into_iter().filter(|action| !named.contains(action)).collect();
    if !missing.is_empty() {
        let words: Vec<&str> = missing.iter().map(|action| name(*action)).collect();
        out.note(format!("authInternalUsers: nobody may {} there, and nobody may here", words.join(" or ")));
        all.push(closed(&missing));
    }
    users(all, "authInternalUsers", out);
}

/// One of them; where he cannot be taken over, nobody comes in in his place.
fn one(key: &str, entry: &Value, allowed: &[(Action, String)], out: &mut Imported) -> Toml {
    let text = |field: &str| entry.get(field).and_then(Value::text).unwrap_or_default();
    let (name, password) = (text("user"), text("pass"));
    let permissions: Vec<Toml> = allowed.iter().map(|(action, stream)| permission(*action, stream)).collect();
    let addresses = addresses(key, entry, out);
    if name.is_empty() || name == "any" {
        return user("any", "", addresses, permissions);
    }
    let taken = user(name, password, addresses, permissions.clone());
    let why = if name.starts_with("sha256:") || password.starts_with("sha256:") {
        Some("its name or password is known by a SHA-256 hash only: make an Argon2id hash of it".to_owned())
    } else if name.starts_with("argon2:") {
        Some("its name is known by its hash only".to_owned())
    } else {
        problem(&taken)
    };
    let Some(why) = why else { return taken };
    out.leave_out(key, format!("{why}; until auth.users has it, nobody may do this in its place"));
    user("any", "", vec![NOWHERE.into()], permissions)
}

fn addresses(key: &str, entry: &Value, out: &mut Imported) -> Vec<Toml> {
    let given = entry.get("ips").map(Value::texts).unwrap_or_default();
    if given.is_empty() {
        return vec![];
    }
    let (good, bad): (Vec<&str>, Vec<&str>) = given.into_iter().partition(|text| text.parse::<Network>().is_ok());
    for text in bad {
        out.leave_out(&format!("{key}.ips"), format!("{text:?} is neither an address nor a network"));
    }
    if good.is_empty() { vec![NOWHERE.into()] } else { good.into_iter().map(Toml::from).collect() }
}

/// Why somebody alone is no configuration. Passwords are no part of it.
fn problem(user: &Toml) -> Option<String> {
    let table = Table::from_iter([("users".to_owned(), Toml::Array(vec![user.clone()]))]);
    match table.try_into::<Auth>() {
        Ok(auth) => auth.problem().map(|(_, problem)| problem),
        Err(_) => Some("it cannot be read".into()),
    }
}

/// `authMethod: http`: asked in the same words (decision 39).
fn http(root: &Value, out: &mut Imported) {
    let url = root.get("authHTTPAddress").and_then(Value::text).unwrap_or_default();
    if let Some(why) = asked(url) {
        out.leave_out("authHTTPAddress", format!("{why}; until auth_http.url is set, nobody may publish or play"));
        return users(vec![closed(&OPEN)], "authMethod", out);
    }
    out.set("auth_http", "url", url, "authHTTPAddress");
    let all = [Action::Publish, Action::Play, Action::Api, Action::Metrics, Action::Debug];
    let excluded = excluded(root, "authHTTPExclude", out);
    let whole = |action: Action| excluded.iter().any(|(other, stream)| *other == action && stream.is_empty());
    let decides = all.into_iter().filter(|action| !whole(*action)).map(|action| name(action).into());
    out.set("auth_http", "actions", decides.collect::<Vec<Toml>>(), "authHTTPAddress and authHTTPExclude");
    free(&excluded, "authHTTPExclude", out);
    if root.get("authHTTPFingerprint").is_some_and(|value| !value.is_off()) {
        out.leave_out("authHTTPFingerprint", "a certificate of its own must be one that the system trusts");
    }
}

/// `authMethod: jwt`.
fn jwt(root: &Value, out: &mut Imported) {
    let keys = root.get("authJWTJWKS").and_then(Value::text).unwrap_or_default();
    if let Some(why) = asked(keys) {
        out.leave_out("authJWTJWKS", format!("{why}; until jwt.jwks is set, nobody may publish or play"));
        return users(vec![closed(&OPEN)], "authMethod", out);
    }
    out.set("jwt", "jwks", keys, "authJWTJWKS");
    for (ours, key) in [("claim", "authJWTClaimKey"), ("issuer", "authJWTIssuer"), ("audience", "authJWTAudience")] {
        if let Some(value) = root.get(key).and_then(Value::text) {
            out.set("jwt", ours, value, key);
        }
    }
    let excluded = excluded(root, "authJWTExclude", out);
    free(&excluded, "authJWTExclude", out);
    if root.get("authJWTJWKSFingerprint").is_some_and(|value| !value.is_off()) {
        out.leave_out("authJWTJWKSFingerprint", "a certificate of its own must be one that the system trusts");
    }
}

/// Why nobody can be asked there. Without the URL: it may have a password.
fn asked(url: &str) -> Option<String> {
    if url.is_empty() { Some("it has no URL".into()) } else { crate::config::rights::url_problem(url) }
}

/// What everybody may do unasked.
fn excluded(root: &Value, key: &str, out: &mut Imported) -> Vec<(Action, String)> {
    permissions(key, root.get(key).map_or(&[][..], Value::items), out)
}

fn free(excluded: &[(Action, String)], from: &str, out: &mut Imported) {
    if !excluded.is_empty() {
        let permissions = excluded.iter().map(|(action, stream)| permission(*action, stream)).collect();
        users(vec![user("any", "", vec![], permissions)], from, out);
    }
}
