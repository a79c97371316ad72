//! Who may use whom: crates of this workspace, and modules within the two large ones. docs/architecture.md draws it,
//! decision 23 says why. A new dependency is allowed here first.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::files;
use crate::process::{Outcome, root};

/// A crate or module, and those that it may use.
type Layer = (&'static str, &'static [&'static str]);

/// Folders of crates of the product, and crates of this workspace that each may depend on. Tests may use everything.
const CRATES: [Layer; 10] = [
    ("forwarder-common", &[]),
    ("forwarder-ebpf", &["forwarder-common"]),
    ("forwarder-user/media", &[]),
    ("forwarder-user/srtp", &["forwarder-common", "penstock-media"]),
    ("forwarder-user/webrtc", &["penstock-media", "penstock-srtp"]),
    ("forwarder-user/rtp", &["forwarder-common", "penstock-media"]),
    ("forwarder-user/sound", &["penstock-rtp"]),
    ("forwarder-user/engine", &["forwarder-common", "penstock-media", "penstock-srtp"]),
    (
        "forwarder-user",
        &[
            "forwarder-common",
            "penstock-engine",
            "penstock-media",
            "penstock-rtp",
            "penstock-sound",
            "penstock-srtp",
            "penstock-webrtc",
        ],
    ),
    ("xtask", &[]),
];

/// Modules of the server.
const SERVER: [Layer; 17] = [
    ("build_info", &[]),
    ("config", &[]),
    ("lines", &[]),
    ("log_queue", &[]),
    ("memory", &[]),
    ("outbound", &[]),
    ("tls", &[]),
    ("acme", &["config", "tls"]),
    ("rights", &["config", "outbound"]),
    ("ingest", &["config", "lines", "rights", "tls"]),
    ("stream", &["config", "ingest", "lines", "memory", "rights"]),
    ("http", &["acme", "build_info", "config", "log_queue", "rights", "stream", "tls"]),
    ("hooks", &["config", "outbound", "stream"]),
    ("doctor", &["config"]),
    ("inspect", &[]),
    ("verify", &[]),
    (
        "cli",
        &[
            "acme",
            "build_info",
            "config",
            "doctor",
            "hooks",
            "http",
            "ingest",
            "inspect",
            "log_queue",
            "memory",
            "rights",
            "stream",
            "tls",
            "verify",
        ],
    ),
];

/// Modules of the engines' crate.
const ENGINE: [Layer; 13] = [
    ("block", &[]),
    ("clock", &[]),
    ("slots", &[]),
    ("elsewhere", &[]),
    ("tier", &[]),
    ("io", &["block"]),
    ("contract", &["io", "tier"]),
    ("route", &["contract"]),
    ("repair", &["contract"]),
    ("bpf", &["contract", "route", "slots"]),
    ("transmit", &["bpf", "contract", "io", "route"]),
    ("kernel", &["bpf", "clock", "contract", "io", "repair", "route", "slots", "tier"]),
    ("userspace", &["bpf", "clock", "contract", "io", "repair", "route", "slots", "tier", "transmit"]),
];

/// Of the engines' crate, what may use all of it.
const ENGINE_TOP: &str = "auto";

/// # Errors
/// Names each use that no layer allows.
pub(super) fn check() -> Outcome {
    let mut wrong = Vec::new();
    for (folder, allowed) in CRATES {
        let manifest = read(&Path::new(folder).join("Cargo.toml"))?;
        for used in dependencies(&manifest).filter(|used| !allowed.contains(used)) {
            wrong.push(format!("{folder}/Cargo.toml: {folder} may not depend on {used}"));
        }
    }
    let sources = files("rs")?;
    wrong.extend(modules("forwarder-user/src", &SERVER, None, &sources)?);
    wrong.extend(modules("forwarder-user/engine/src", &ENGINE, Some(ENGINE_TOP), &sources)?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))
}

/// Crates of this workspace below `[dependencies]`, where the product's are.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let table = manifest.split("\n[").find(|table| table.starts_with("dependencies]")).unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| ["forwarder-", "penstock-", "tests-"].iter().any(|ours| name.starts_with(ours)))
}

/// Uses between the modules of a crate that no layer allows.
fn modules(folder: &str, layers: &[Layer], top: Option<&str>, sources: &[PathBuf]) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    for path in sources.iter().filter(|path| path.starts_with(folder)) {
        let Ok(inside) = path.strip_prefix(folder) else { continue };
        let Some(module) = inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned())
        else {
            continue;
        };
        let module = module.trim_end_matches(".rs");
        // The crate's root joins all; tests may look at what they test.
        if ["lib", "main"].contains(&module) || Some(module) == top || is_test(inside) {
            continue;
        }
        let Some((_, allowed)) = layers.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: {module} has no layer in xtask/src/gates/layers.rs", path.display()));
            continue;
        };
        let used = used(&read(path)?);
        for name in used.iter().filter(|name| *name != module && !allowed.contains(&name.as_str())) {
            wrong.push(format!("{}: {module} may not use {name}", path.display()));
        }
    }
    Ok(wrong)
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| ["tests", "tests.rs"].iter().any(|name| part.as_os_str() == *name))
}

/// Modules that a source names by `crate::`, without those of its tests. What stands at the crate's root itself, with a
/// capital letter, is its contract, which everybody may use.
fn used(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_words(group)),
            None => names.extend(word(rest)),
        }
    }
    names
}

/// The first word of each item in `a, b::{c, d}, e}`.
fn first_words(group: &str) -> Vec<String> {
    let (mut depth, mut item, mut items) = (0, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    items.push(item);
    items.iter().filter_map(|item| word(item.trim())).collect()
}

/// A name in small letters at the beginning.
fn word(text: &str) -> Option<String> {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    let word = &text[..end];
    (word.starts_with(|letter: char| letter.is_ascii_lowercase()) && word != "self").then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_found_in_every_form() {
        let source = "
            //! crate::nothing
            use crate::{
                Engine, contract::{Event, types},
                slots::Slots,
            };
            use crate::route;
            fn f() { crate::bpf::load(); } // crate::comment
            #[cfg(test)]
            mod tests { use crate::auto; }";
        assert_eq!(used(source).into_iter().collect::<Vec<_>>(), ["bpf", "contract", "route", "slots"]);
    }

    #[test]
    fn a_way_back_up_is_found() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nforwarder-common.workspace = true\n\
                        penstock-engine = { path = \"../engine\" }\n\n[dev-dependencies]\ntests-kit.workspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["forwarder-common", "penstock-engine"]);
        let folder = "forwarder-user/engine/src";
        let sources = [PathBuf::from("forwarder-user/engine/src/kernel/mod.rs")];
        let layers: [Layer; 1] = [("kernel", &["contract"])];
        let wrong = modules(folder, &layers, None, &sources).unwrap();
        assert!(wrong.iter().any(|line| line.ends_with("kernel may not use bpf")), "{wrong:?}");
    }

    #[test]
    fn every_rule_is_kept_here() {
        check().unwrap();
    }
}
