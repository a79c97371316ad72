//! Pages and the player: what is served, and that its parts find each other.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use tower::ServiceExt;

use super::{ask, open_server, refused};

#[tokio::test]
async fn every_page_is_there() {
    for path in ["/", "/cam", "/cam/", "/cam/publish", "/cam/publish/"] {
        let reply = ask(open_server(), "GET", path, &[], "").await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
        let policy = reply.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!reply.body.contains("<script>") && !reply.body.contains(" style="), "{path} has inline code");
        // Pages of others may have it in an iframe.
        assert!(!policy.contains("frame-ancestors") && reply.header("x-frame-options").is_empty());
        // Each file that the page names is there, and by a way that does not need the root to be ours.
        let names = reply.body.split(['"', '\'']).filter_map(|text| text.split_once("assets/"));
        assert!(names.clone().count() > 2, "{path}");
        for (way, name) in names {
            let depth = path.matches('/').count() - 1;
            assert_eq!(way, if depth == 0 { "./".to_owned() } else { "../".repeat(depth) }, "{path}");
            let file = ask(open_server(), "GET", &format!("/assets/{name}"), &[], "").await;
            assert_eq!(file.status, StatusCode::OK, "{name}");
            assert!(!file.body.is_empty(), "{name}");
        }
    }
    refused(&ask(open_server(), "GET", "/assets/none.js", &[], "").await, 404, "no such file");
    refused(&ask(open_server(), "GET", "/assets/play.html", &[], "").await, 404, "no such file");
}

/// What scripts import is there, and other sites may import the player.
#[tokio::test]
async fn scripts_find_each_other() {
    for name in crate::http::pages::FILES.iter().filter(|name| name.ends_with(".js")) {
        let path = if *name == "player.js" { "/player.js".to_owned() } else { format!("/assets/{name}") };
        let script = ask(open_server(), "GET", &path, &[("origin", "https://tv.example")], "").await;
        assert_eq!(script.status, StatusCode::OK, "{path}");
        assert_eq!(script.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
        assert!(script.body.len() < 10_000, "{path} has {} bytes", script.body.len());
        for imported in script.body.split(" from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let target = match (imported.strip_prefix("../"), imported.strip_prefix("./")) {
                (Some(above), _) => format!("/{above}"),
                (_, Some(beside)) if path.starts_with("/assets/") => format!("/assets/{beside}"),
                (_, Some(below)) => format!("/{below}"),
                _ => panic!("{path} imports {imported}"),
            };
            let reply = ask(open_server(), "GET", &target, &[], "").await;
            assert_eq!(reply.status, StatusCode::OK, "{path} imports {target}");
        }
    }
    let types = ask(open_server(), "GET", "/player.d.ts", &[], "").await;
    assert!(types.body.contains("export class PenstockPlayer"));
}

/// All that a page of others loads for the player, as it goes over the line.
#[tokio::test]
async fn the_player_is_small() {
    let mut bytes = 0;
    for path in ["/player.js", "/assets/playback.js", "/assets/session.js"] {
        let request = Request::builder().uri(path).header("accept-encoding", "gzip, br").body(Body::empty()).unwrap();
        let response = open_server().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
        bytes += to_bytes(response.into_body(), 1 << 20).await.unwrap().len();
    }
    assert!(bytes < 10_000, "{bytes} bytes");
}

/// What docs/player.md lists is in the player: parameters and members, events, states.
#[tokio::test]
async fn what_the_documentation_says_is_there() {
    let documentation = include_str!("../../../../docs/player.md");
    let mut code = String::new();
    for name in ["/player.js", "/player.d.ts", "/assets/playback.js", "/assets/play.js", "/assets/ui.js"] {
        code += &ask(open_server(), "GET", name, &[], "").await.body;
    }
    for (table, least) in [("parameter", 8), ("member", 8), ("event", 3), ("state", 9)] {
        let (_, rows) = documentation.split_once(&format!("\n| {table} |")).expect(table);
        let first_cells = rows.lines().skip(2).map_while(|line| line.strip_prefix("| ")?.split('|').next());
        // Names stand in backticks; parentheses only say that a member is called.
        let names: Vec<&str> = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(names.len() >= least, "{table}: {names:?}");
        for name in names {
            let bare = name.trim_end_matches("()");
            let words = [format!("\"{bare}\""), format!("{bare}:"), format!(" {bare}(")];
            assert!(words.iter().any(|word| code.contains(word)), "{table} {name} is not in the player");
        }
    }
}
