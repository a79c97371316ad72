//! Links in Markdown files: the file is there, and the heading in it. Addresses elsewhere are not asked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::files;
use crate::process::{Outcome, root};

/// # Errors
/// Names each link that leads nowhere.
pub(super) fn check() -> Outcome {
    let mut dead = Vec::new();
    for file in files("md")? {
        let text = read(&file)?;
        for (line, link) in links(&text) {
            if let Err(why) = follow(&file, link) {
                dead.push(format!("{}:{line}: {link}: {why}", file.display()));
            }
        }
    }
    if dead.is_empty() { Ok(()) } else { Err(dead.join("\n")) }
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))
}

/// `[text](target)` with the number of its line, outside of code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let Some(target) = rest.split(')').next() else { continue };
            found.push((number + 1, target.split(' ').next().unwrap_or(target)));
        }
    }
    found
}

fn follow(from: &Path, link: &str) -> Outcome {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target: PathBuf = match path {
        "" => from.to_owned(),
        path => from.parent().unwrap_or(Path::new("")).join(path),
    };
    if !root().join(&target).exists() {
        return Err("no such file".into());
    }
    if heading.is_empty() || headings(&read(&target)?).iter().any(|anchor| anchor == heading) {
        return Ok(());
    }
    Err("no such heading".into())
}

/// Anchors of a file's headings, as forges make them: small letters, digits, dashes for spaces.
fn headings(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        anchors.push(kept.collect::<String>().to_lowercase().replace(' ', "-"));
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_headings_are_found() {
        let text = "# A title: `code`, and more\nsee [a](b.md#c), [d](https://e)\n```\n[no](link)\n# no heading\n```\n";
        assert_eq!(links(text), [(2, "b.md#c"), (2, "https://e")]);
        assert_eq!(headings(text), ["a-title-code-and-more"]);
    }

    #[test]
    fn a_dead_link_is_found() {
        let readme = Path::new("README.md");
        assert!(follow(readme, "docs/linux.md").is_ok());
        assert!(follow(readme, "docs/linux.md#tiers").is_ok());
        assert!(follow(readme, "docs/nothing.md").is_err());
        assert!(follow(readme, "docs/linux.md#nothing").is_err());
        assert!(follow(readme, "https://example.net/").is_ok());
    }
}
