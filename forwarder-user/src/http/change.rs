//! What the API asks of whoever keeps the configuration: the command line's main loop.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Changes that may wait.
pub const QUEUE: usize = 16;

/// The way to whoever keeps the configuration.
pub type Changes = mpsc::Sender<Change>;

/// One wish.
#[derive(Debug)]
pub enum Change {
    /// The configuration in force, without secrets.
    Show {
        /// As `penstock config check` prints it.
        reply: oneshot::Sender<Value>,
    },
    /// Other live keys.
    Patch {
        /// A JSON merge patch (RFC 7396).
        patch: Value,
        /// The configuration then.
        reply: oneshot::Sender<Result<Value, Refused>>,
    },
    /// A stream with a source of its own.
    Stream {
        /// Its name.
        name: String,
        /// What becomes of it.
        edit: Edit,
        /// Whether it outlives this process.
        persist: bool,
        /// `true`: it is new.
        reply: oneshot::Sender<Result<bool, Refused>>,
    },
}

/// What becomes of a stream.
#[derive(Debug)]
pub enum Edit {
    /// It is so from now on.
    Put(Value),
    /// A JSON merge patch of it.
    Patch(Value),
    /// It has no source any more.
    Remove,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such stream.
    NotFound(String),
    /// It cannot be in this state.
    Conflict(String),
    /// It cannot be at all.
    Invalid(String),
}

/// Applies a JSON merge patch (RFC 7396 §2). Only as deep as a document that was parsed, which has a limit.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => merge(fields.entry(name.as_str()).or_insert(Value::Null), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Appendix A of the RFC, in part.
    #[test]
    fn patches_are_merged() {
        for (target, patch, result) in [
            (json!({ "a": "b" }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": "b" }), json!({ "b": "c" }), json!({ "a": "b", "b": "c" })),
            (json!({ "a": "b", "b": "c" }), json!({ "a": null }), json!({ "b": "c" })),
            (json!({ "a": ["b"] }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": { "b": "c" } }), json!({ "a": { "b": "d", "c": null } }), json!({ "a": { "b": "d" } })),
            (json!(["a"]), json!({ "a": 1 }), json!({ "a": 1 })),
            (json!({}), json!({ "a": { "bb": { "ccc": null } } }), json!({ "a": { "bb": {} } })),
        ] {
            let mut merged = target;
            merge(&mut merged, &patch);
            assert_eq!(merged, result);
        }
    }
}
