//! What the API makes of a configuration: another one, or why it cannot be.

use std::path::PathBuf;

use serde_json::Value;

use super::reload::{differences, with_live_keys};
use crate::{
    config::{Config, SourceUrl, Stream, saved},
    http::{Edit, Refused, merge},
};

/// With other live keys. What the patch says nothing of stays, secrets too, which are not shown and so not patched in part.
///
/// # Errors
/// It cannot be, or needs a restart.
pub(super) fn patched(running: &Config, patch: &Value) -> Result<Config, Refused> {
    let invalid = |why: String| Refused::Invalid(why);
    let Value::Object(sections) = patch else {
        return Err(invalid("a patch of the configuration is an object".into()));
    };
    if sections.contains_key("streams") {
        return Err(invalid("streams are changed at /api/v1/streams/{stream}".into()));
    }
    let mut merged = serde_json::to_value(running).map_err(|error| invalid(error.to_string()))?;
    if let Some(fields) = merged.as_object_mut() {
        // They hold secrets, and are not changed here.
        fields.remove("streams");
    }
    merge(&mut merged, patch);
    let mut wanted: Config = serde_json::from_value(merged).map_err(|error| invalid(error.to_string()))?;
    keep_secrets(&mut wanted, running, patch);
    wanted.streams = running.streams.clone();
    wanted.check("the patch").map_err(|error| invalid(error.to_string()))?;
    let config = with_live_keys(running, &wanted);
    let waiting = differences(&config, &wanted);
    if !waiting.is_empty() {
        return Err(Refused::Conflict(format!("these need a restart, so nothing is changed: {}", waiting.join(", "))));
    }
    Ok(config)
}

fn keep_secrets(wanted: &mut Config, running: &Config, patch: &Value) {
    let named = |section: &str, key: &str| patch.get(section).is_some_and(|section| section.get(key).is_some());
    let secrets = [
        ("auth", "publish_token", &mut wanted.auth.publish_token, &running.auth.publish_token),
        ("auth", "play_token", &mut wanted.auth.play_token, &running.auth.play_token),
        ("auth", "api_token", &mut wanted.auth.api_token, &running.auth.api_token),
        ("jwt", "secret", &mut wanted.jwt.secret, &running.jwt.secret),
        ("hooks", "secret", &mut wanted.hooks.secret, &running.hooks.secret),
        ("acme", "eab_key", &mut wanted.acme.eab_key, &running.acme.eab_key),
    ];
    for (section, key, wanted, running) in secrets {
        if !named(section, key) {
            *wanted = running.clone();
        }
    }
    if !named("http", "ice_servers") {
        wanted.http.ice_servers = running.http.ice_servers.clone();
    }
    if !named("auth", "users") {
        wanted.auth.users = running.auth.users.clone();
    }
}

/// With a stream that has another source, a new one, or none any more. `true`: it is new.
///
/// # Errors
/// It cannot be, or cannot be kept.
pub(super) async fn stream(running: &Config, name: &str, edit: Edit, persist: bool) -> Result<(Config, bool), Refused> {
    let mut config = running.clone();
    let former = config.streams.get(name).cloned();
    let file = running.api.streams_file.clone();
    if persist && file.as_os_str().is_empty() {
        return Err(Refused::Conflict("there is no `api.streams_file` in the configuration to keep it in".into()));
    }
    let kept = match edit {
        Edit::Remove => {
            if former.is_none() {
                return Err(Refused::NotFound(format!("{name:?} has no source of its own")));
            }
            config.streams.remove(name);
            None
        }
        Edit::Put(document) => {
            config.streams.insert(name.to_owned(), parse(document.clone())?);
            Some(document)
        }
        Edit::Patch(patch) => {
            let former =
                former.as_ref().ok_or_else(|| Refused::NotFound(format!("{name:?} has no source of its own")))?;
            config.streams.insert(name.to_owned(), merged(former, &patch)?);
            match persist {
                true => Some(kept_document(file.clone(), name.to_owned(), patch).await?),
                false => None,
            }
        }
    };
    config.check("the stream").map_err(|error| Refused::Invalid(error.to_string()))?;
    if persist {
        let (name, path) = (name.to_owned(), file.clone());
        let written = blocking(move || saved::write(&path, &name, kept.as_ref())).await;
        written.map_err(|error| Refused::Conflict(format!("{} cannot be written: {error}", file.display())))?;
    }
    Ok((config, former.is_none()))
}

fn parse(document: Value) -> Result<Stream, Refused> {
    serde_json::from_value(document).map_err(|error| Refused::Invalid(error.to_string()))
}

/// The URL of a source is not shown, so it is taken over as it is unless the patch has another one.
fn merged(former: &Stream, patch: &Value) -> Result<Stream, Refused> {
    let mut document = serde_json::to_value(former).map_err(|error| Refused::Invalid(error.to_string()))?;
    if let Some(fields) = document.as_object_mut() {
        fields.remove("source");
    }
    merge(&mut document, patch);
    let mut stream = parse(document)?;
    if patch.get("source").is_none() {
        stream.source = SourceUrl::clone(&former.source);
    }
    Ok(stream)
}

/// What is kept of a stream, with the patch.
async fn kept_document(file: PathBuf, name: String, patch: Value) -> Result<Value, Refused> {
    let read = blocking(move || saved::document(&file, &name).map(|document| (document, name))).await;
    let (document, name) = read.map_err(|error| Refused::Conflict(error.to_string()))?;
    let mut document = document.ok_or_else(|| {
        Refused::Conflict(format!("{name:?} is not kept by the API: change the configuration file, or PUT all of it"))
    })?;
    merge(&mut document, &patch);
    Ok(document)
}

/// Files are slow.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn running() -> Config {
        let text = "[auth]\npublish_token = \"p\"\n[[auth.users]]\nname = \"a\"\npassword = \"b\"\n\
                    permissions = [{ action = \"api\" }]\n[http]\n\
                    ice_servers = [{ url = \"turn:a.example\", secret = \"s\" }]\n[acme]\neab_key = \"e\"\n\
                    [streams.door]\nsource = \"rtsp://u:secret@192.0.2.1/a\"";
        Config::parse(text, "t").unwrap()
    }

    #[test]
    fn live_keys_are_patched_and_secrets_stay() {
        let running = running();
        let config =
            patched(&running, &json!({ "rtcp": { "interval_ms": 500 }, "auth": { "play_token": "x" } })).unwrap();
        assert_eq!(config.rtcp.interval_ms, 500);
        assert!(config.auth.play_token.matches("x") && config.auth.publish_token.matches("p"));
        assert_eq!((&config.auth.users, &config.streams), (&running.auth.users, &running.streams));
        assert_eq!((&config.http.ice_servers, &config.acme), (&running.http.ice_servers, &running.acme));
        for (patch, says) in [
            (json!({ "media": { "port": 9 } }), "restart"),
            (json!({ "rtcp": { "interval_ms": 1 } }), "not between"),
            (json!({ "rtcp": { "nonsense": 1 } }), "nonsense"),
            (json!({ "streams": {} }), "/api/v1/streams"),
            (json!([]), "object"),
        ] {
            let refused = format!("{:?}", patched(&running, &patch).unwrap_err());
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[tokio::test]
    async fn streams_come_change_and_go() {
        let running = running();
        let put = |name: &'static str, document| {
            let running = running.clone();
            async move { stream(&running, name, Edit::Put(document), false).await }
        };
        let (config, new) = put("gate", json!({ "source": "rtsp://192.0.2.2/" })).await.unwrap();
        assert!(new && config.streams.len() == 2);
        assert!(matches!(put("gate", json!({})).await, Err(Refused::Invalid(_))));
        assert!(matches!(put("gate", json!({ "source": "rtsp://a/", "x": 1 })).await, Err(Refused::Invalid(_))));
        let patch = Edit::Patch(json!({ "on_demand": true }));
        let (config, new) = stream(&running, "door", patch, false).await.unwrap();
        assert!(!new && config.streams["door"].on_demand);
        assert_eq!(config.streams["door"].source, running.streams["door"].source);
        let (config, _) = stream(&running, "door", Edit::Remove, false).await.unwrap();
        assert!(config.streams.is_empty());
        assert!(matches!(stream(&running, "none", Edit::Remove, false).await, Err(Refused::NotFound(_))));
        assert!(matches!(stream(&running, "none", Edit::Patch(json!({})), false).await, Err(Refused::NotFound(_))));
        assert!(
            matches!(stream(&running, "door", Edit::Remove, true).await, Err(Refused::Conflict(_))),
            "nowhere to keep"
        );
    }
}
