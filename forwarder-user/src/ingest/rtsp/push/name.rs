//! What the URLs of a publisher mean: which stream, and which of its tracks.

use penstock_rtp::{
    description::Description,
    rtsp::url::{Url, decode},
};

/// The stream that is announced: the path, without query. `None`: there is none.
pub(super) fn stream(uri: &str) -> Option<String> {
    let path = path(uri)?;
    let name = decode(&path).trim_matches('/').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Which track a URL means. That of one that was left out is beyond all: clients set up all that they announced.
pub(super) fn track(description: &Description, uri: &str) -> Option<usize> {
    for is_meant in [is_named, is_meant] {
        if let Some(index) = description.tracks.iter().position(|track| is_meant(uri, &track.control)) {
            return Some(index);
        }
        if description.left_out_controls.iter().any(|control| is_meant(uri, control)) {
            return Some(usize::MAX);
        }
    }
    // Who sends one track need not name it.
    let lone = description.tracks.len() == 1 && matches!(description.tracks[0].control.as_str(), "" | "*");
    lone.then_some(0)
}

/// `a=control` is the whole of the URL, or its end.
fn is_named(uri: &str, control: &str) -> bool {
    let before = uri.strip_suffix(control).filter(|_| !matches!(control, "" | "*"));
    before.is_some_and(|before| before.is_empty() || before.ends_with('/') || control.starts_with(['?', '/']))
}

/// So it is but for the host that it names, and for a query or a slash behind.
fn is_meant(uri: &str, control: &str) -> bool {
    let Some(asked) = path(uri) else { return false };
    let asked = asked.trim_end_matches('/');
    match path(control).filter(|_| control.contains("://")) {
        Some(said) => is_named(uri, tail(control)) || asked == said.trim_end_matches('/'),
        None => is_named(asked, control.split('?').next().unwrap_or_default().trim_end_matches('/')),
    }
}

/// Path and query of a URL.
fn tail(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |at| &rest[at..])
}

/// The path of a URL, or of a request that names nothing else.
pub(in crate::ingest::rtsp) fn path(uri: &str) -> Option<String> {
    match Url::parse(uri) {
        Ok((url, _)) => Some(url.path().to_owned()),
        Err(_) if uri.starts_with('/') => Some(uri.split('?').next().unwrap_or_default().to_owned()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use penstock_rtp::description::Writer;

    use super::*;

    #[test]
    fn names_of_streams() {
        for (uri, name) in [
            ("rtsp://h:8554/cam", Some("cam")),
            ("rtsp://u:p@h/site/door/", Some("site/door")),
            ("rtsp://h/site%2fdoor?token=1", Some("site/door")),
            ("/cam?x", Some("cam")),
            ("rtsp://h?x=1", None),
            ("*", None),
        ] {
            assert_eq!(stream(uri).as_deref(), name, "{uri}");
        }
    }

    fn description(controls: [&str; 2]) -> Description {
        let text = format!(
            "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:{}\nm=audio 0 RTP/AVP 8\na=control:{}\n\
             m=application 0 RTP/AVP 99\na=control:meta\n",
            controls[0], controls[1]
        );
        Description::parse(text.as_bytes(), Writer::Sender).unwrap()
    }

    #[test]
    fn tracks_are_found_by_their_control() {
        for (controls, uris) in [
            (["streamid=0", "streamid=1"], ["rtsp://h/cam/streamid=0", "rtsp://h/cam/streamid=1"]),
            // A query before the control, and behind it.
            (["streamid=0", "streamid=1"], ["rtsp://h/cam?a=b/streamid=0", "rtsp://h/cam/streamid=1?a=b"]),
            (["track/0", "track/1"], ["rtsp://h/cam/track/0/", "/cam/track/1"]),
            (["?ctype=video", "?ctype=audio"], ["rtsp://h/cam?ctype=video", "rtsp://h/cam?ctype=audio"]),
            // The description names another host (a publisher behind NAT).
            (["rtsp://10.0.0.9/cam/0", "rtsp://10.0.0.9:8554/cam/1"], ["rtsp://h/cam/0", "rtsp://h/cam/1?x=y"]),
            (["rtsp://10.0.0.9/x?t=1", "rtsp://10.0.0.9/x?t=2"], ["rtsp://10.0.0.9/x?t=1", "rtsp://10.0.0.9/x?t=2"]),
        ] {
            let described = description(controls);
            assert_eq!(uris.map(|uri| track(&described, uri)), [Some(0), Some(1)], "{controls:?} {uris:?}");
        }
        let described = description(["0", "1"]);
        assert_eq!(track(&described, "rtsp://h/cam/meta"), Some(usize::MAX));
        for uri in ["rtsp://h/cam/2", "rtsp://h/cam", "rtsp://h/cam10", "*", ""] {
            assert_eq!(track(&described, uri), None, "{uri}");
        }
        let lone = Description::parse(b"m=audio 0 RTP/AVP 8", Writer::Sender).unwrap();
        assert_eq!(track(&lone, "rtsp://h/cam"), Some(0));
    }
}
