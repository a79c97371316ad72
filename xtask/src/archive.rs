//! Packages of Debian's archive, of any release and machine, fetched and unpacked but never installed.
//!
//! Each suite has lists of its own below `target/archive`, so nothing of the system's apt is touched. The mirror is
//! the system's, and so are its proxies and the keys that it trusts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use crate::{
    process::{Outcome, output_of, root},
    progress::Console,
};

/// Debian's keys, of all releases that the system's package of them knows.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names of releases, which tell Debian's own archive from others that a system may have.
const SUITES: [&str; 10] =
    ["bookworm", "trixie", "forky", "duke", "sid", "unstable", "testing", "stable", "oldstable", "oldoldstable"];

/// Steps that run side by side take turns: apt locks its folders, and refuses whoever comes second.
static TURN: Mutex<()> = Mutex::new(());

/// Where a system gets its packages.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    packages: String,
    /// Security updates; not every system has them.
    security: Option<String>,
}

/// One entry of the system's sources.
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    main: bool,
}

/// A suite: which packages it has.
pub(crate) struct Suite {
    name: String,
    folder: PathBuf,
    /// Packages that count as installed: the system's, or none.
    installed: PathBuf,
    /// Machine of packages whose name says none.
    architecture: &'static str,
}

/// What the archive says of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// As in `Depends`, without versions and without alternatives.
    pub depends: Vec<String>,
}

impl Package {
    /// The name of its file in the archive.
    fn file(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }

    fn request(&self) -> String {
        format!("{}:{}={}", self.name, self.architecture, self.version).replace(":all=", "=")
    }
}

/// The release that this system is, such as `bookworm`.
///
/// # Errors
/// It is no Debian.
pub(crate) fn own_suite() -> Outcome<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let name = field("VERSION_CODENAME").map(|name| name.trim_matches('"').to_owned());
    match (field("ID").map(|id| id.trim_matches('"')), name) {
        (Some("debian"), Some(name)) => Ok(name),
        (Some("debian"), None) => Ok("sid".into()),
        _ => Err(
            "packages of other releases are fetched by Debian's apt-get, with the mirror that the system has: this \
                  needs Debian 12 or newer (a container of it will do, without any right but to the network)"
                .into(),
        ),
    }
}

impl Suite {
    /// Prepares the folder; fetches nothing. `architecture`: of packages whose name says none. `foreign`: as if
    /// nothing were installed.
    ///
    /// # Errors
    /// No Debian, no mirror in its sources, or no space.
    pub(crate) fn open(name: &str, architecture: &'static str, foreign: bool) -> Outcome<Self> {
        own_suite()?;
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            crate::process::find(program).ok_or_else(|| format!("{program} is missing: it comes with Debian"))?;
        }
        let folder = root().join("target/archive").join(format!("{name}-{architecture}"));
        for sub in ["etc/sources.list.d", "etc/preferences.d", "lists/partial", "cache/archives/partial"] {
            make(&folder.join(sub))?;
        }
        write(&folder.join("none"), "")?;
        let installed = if foreign { folder.join("none") } else { "/var/lib/dpkg/status".into() };
        write(&folder.join("etc/sources.list"), &sources(name, architecture, &system_mirror()?))?;
        Ok(Self { name: name.into(), folder, installed, architecture })
    }

    /// Refreshes the lists, unless that was done less than a day ago.
    ///
    /// # Errors
    /// With what apt-get said.
    pub(crate) fn update(&self, console: &Console<'_>) -> Outcome {
        const FRESH: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.folder.join("updated");
        let age = fs::metadata(&stamp).and_then(|it| it.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        console.run(self.apt("apt-get").arg("update")).map_err(|error| {
            format!(
                "{error}\nA key that is unknown: the system's package debian-archive-keyring is older than {}",
                self.name
            )
        })?;
        write(&stamp, "")
    }

    /// What the archive says of a package; `None` if it has none of that name.
    pub(crate) fn show(&self, package: &str) -> Option<Package> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        parse_package(&output_of(self.apt("apt-cache").args(["show", "--no-all-versions", package]))?)
    }

    /// Names of packages that begin so.
    pub(crate) fn names(&self, begin: &str) -> Vec<String> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let names = output_of(self.apt("apt-cache").args(["pkgnames", begin])).unwrap_or_default();
        names.lines().map(str::to_owned).collect()
    }

    /// The packages and all that they need beyond what is installed.
    ///
    /// # Errors
    /// The archive cannot satisfy them; with what apt-get said.
    pub(crate) fn with_dependencies(&self, packages: &[&str]) -> Outcome<Vec<Package>> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = self.apt("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends", "-o", "Debug::NoLocking=1"]).args(packages);
        let output = command.output().map_err(|error| format!("apt-get: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!(
                "{} cannot be had: {text}{}",
                packages.join(", "),
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Ok(text.lines().filter_map(parse_step).collect())
    }

    /// Fetches those packages that are not there yet; their files.
    ///
    /// # Errors
    /// With what apt-get said.
    pub(crate) fn fetch(&self, packages: &[Package], console: &Console<'_>) -> Outcome<Vec<PathBuf>> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let store = root().join("target/archive/packages");
        make(&store)?;
        let missing: Vec<String> =
            packages.iter().filter(|it| !store.join(it.file()).exists()).map(Package::request).collect();
        if !missing.is_empty() {
            // In a folder of its own, so that a file in the store is always whole.
            let partial = store.join(format!("partial-{}-{}", self.name, std::process::id()));
            make(&partial)?;
            console.run(self.apt("apt-get").arg("download").args(&missing).current_dir(&partial))?;
            for entry in fs::read_dir(&partial).map_err(|error| failed(&partial, &error))?.flatten() {
                let place = store.join(entry.file_name());
                fs::rename(entry.path(), &place).map_err(|error| failed(&place, &error))?;
            }
            fs::remove_dir(&partial).map_err(|error| failed(&partial, &error))?;
        }
        packages
            .iter()
            .map(|package| {
                let file = store.join(package.file());
                if file.exists() { Ok(file) } else { Err(format!("apt-get fetched no {}", package.file())) }
            })
            .collect()
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = |name: &str| self.folder.join(name).display().to_string();
        for (key, value) in [
            ("Dir::Etc::SourceList", folder("etc/sources.list")),
            ("Dir::Etc::SourceParts", folder("etc/sources.list.d")),
            ("Dir::Etc::Preferences", folder("none")),
            ("Dir::Etc::PreferencesParts", folder("etc/preferences.d")),
            ("Dir::State", folder("")),
            ("Dir::State::Lists", folder("lists")),
            ("Dir::State::status", self.installed.display().to_string()),
            ("Dir::State::extended_states", folder("none")),
            ("Dir::Cache", folder("cache")),
            ("APT::Architecture", self.architecture.into()),
            ("APT::Architectures::", self.architecture.into()),
            // The user of root's downloads cannot write below a private folder.
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        // Packages alone, of one machine: reading lists is most of the work.
        command.args(["-o", "Acquire::Languages=none", "-o", "Acquire::PDiffs=false"]);
        for other in ["Contents-deb", "DEP-11", "DEP-11-icons", "DEP-11-icons-small", "DEP-11-icons-large"] {
            command.arg("-o").arg(format!("Acquire::IndexTargets::deb::{other}::DefaultEnabled=false"));
        }
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Unpacks packages into a folder, one above the other.
///
/// # Errors
/// With what dpkg-deb said.
pub(crate) fn unpack(files: &[PathBuf], folder: &Path, console: &Console<'_>) -> Outcome {
    make(folder)?;
    files.iter().try_for_each(|file| console.run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(folder)))
}

/// Whether a version is higher than another, as dpkg compares them.
pub(crate) fn higher(version: &str, than: &str) -> bool {
    Command::new("dpkg").args(["--compare-versions", version, "gt", than]).status().is_ok_and(|status| status.success())
}

/// Makes a folder and those above it.
///
/// # Errors
/// Names the folder.
pub(crate) fn make(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))
}

/// Writes a file.
///
/// # Errors
/// Names the file.
pub(crate) fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| failed(path, &error))
}

/// An error of a file, for people.
pub(crate) fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The lines of `sources.list` for a suite.
fn sources(suite: &str, architecture: &str, mirror: &Mirror) -> String {
    let line = |uri: &str, suite: &str| format!("deb [arch={architecture} signed-by={KEYRING}] {uri} {suite} main\n");
    let mut text = line(&mirror.packages, suite);
    // Neither backports nor unstable have security updates of their own.
    if let Some(security) = mirror.security.as_ref().filter(|_| !suite.contains("backports") && suite != "sid") {
        text += &line(security, &format!("{suite}-security"));
    }
    text
}

fn system_mirror() -> Outcome<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort();
    let entries = files.iter().flat_map(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas(&text),
            Some("list") => lines(&text),
            _ => Vec::new(),
        }
    });
    mirror(entries)
        .ok_or_else(|| "no source of apt names Debian's archive: /etc/apt/sources.list.d/debian.sources".into())
}

/// Of all sources, those of Debian.
fn mirror(entries: impl Iterator<Item = Entry>) -> Option<Mirror> {
    let (mut packages, mut security) = (None, None);
    for entry in entries.filter(|entry| entry.main) {
        for suite in entry.suites {
            let (name, kind) = suite.split_once('-').unwrap_or((&suite, ""));
            let uri = entry.uris.first().cloned();
            match kind {
                _ if !SUITES.contains(&name) => {}
                "" => packages = packages.or(uri),
                "security" => security = security.or(uri),
                _ => {}
            }
        }
    }
    Some(Mirror { packages: packages?, security })
}

/// `deb [options] URI SUITE COMPONENT…`.
fn lines(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (words.next()?, words.next()?);
        Some(Entry { uris: vec![uri], suites: vec![suite], main: words.any(|component| component == "main") })
    };
    text.lines().filter_map(entry).collect()
}

/// Paragraphs of fields (`sources.list(5)`).
fn stanzas(text: &str) -> Vec<Entry> {
    let kept: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let entry = |paragraph: &str| {
        let fields = fields(paragraph);
        let words = |key: &str| -> Vec<String> {
            fields.get(key).map(|value| value.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        let binary =
            words("types").iter().any(|kind| kind == "deb") && fields.get("enabled").is_none_or(|it| it != "no");
        let main = words("components").iter().any(|component| component == "main");
        binary.then(|| Entry { uris: words("uris"), suites: words("suites"), main })
    };
    kept.split("\n\n").filter_map(entry).collect()
}

/// Fields of a paragraph, names in lower case.
fn fields(paragraph: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut last = String::new();
    for line in paragraph.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = fields.get_mut(&last) {
                *value = format!("{value} {}", line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            last = key.to_lowercase();
            fields.insert(last.clone(), value.trim().to_owned());
        }
    }
    fields
}

fn parse_package(text: &str) -> Option<Package> {
    let fields = fields(text.split("\n\n").next()?);
    let names = |text: &String| {
        let first = |word: &str| word.split(['|', '(', ':']).next().unwrap_or_default().trim().to_owned();
        text.split(',').map(first).collect()
    };
    Some(Package {
        name: fields.get("package")?.clone(),
        version: fields.get("version")?.clone(),
        architecture: fields.get("architecture")?.clone(),
        depends: fields.get("depends").map(names).unwrap_or_default(),
    })
}

/// `Inst NAME[:ARCHITECTURE] [OLD] (VERSION SOURCE [ARCHITECTURE])`.
fn parse_step(line: &str) -> Option<Package> {
    let name = line.strip_prefix("Inst ")?.split_whitespace().next()?;
    let (version, rest) = line.split_once('(')?.1.split_once(' ')?;
    let architecture = rest.split_once('[')?.1.split_once(']')?.0;
    Some(Package {
        name: name.split(':').next()?.to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
        depends: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_debian() {
        let stanza = "Types: deb\nURIs: http://other.example/x\nSuites: nodistro\nComponents: main\n\nTypes: deb deb-src\n\
                      # a comment\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main\n\n\
                      Types: deb\nURIs: http://mirror.example/security\nSuites: trixie-security\nComponents: main contrib\n";
        let expected = Mirror {
            packages: "http://mirror.example/debian".into(),
            security: Some("http://mirror.example/security".into()),
        };
        assert_eq!(mirror(stanzas(stanza).into_iter()), Some(expected));
        let list = "# deb http://no.example/debian trixie main\n\
                    deb [arch=amd64 signed-by=/x] http://mirror.example/debian sid main non-free\n";
        let expected = Mirror { packages: "http://mirror.example/debian".into(), security: None };
        assert_eq!(mirror(lines(list).into_iter()), Some(expected));
        assert_eq!(mirror(lines("deb https://other.example/ubuntu noble main").into_iter()), None);
    }

    #[test]
    fn backports_have_no_security_of_their_own() {
        let mirror = Mirror { packages: "http://a".into(), security: Some("http://b".into()) };
        assert!(sources("bookworm", "arm64", &mirror).ends_with("http://b bookworm-security main\n"));
        assert_eq!(sources("trixie-backports", "amd64", &mirror).lines().count(), 1);
    }

    #[test]
    fn packages_as_apt_tells_them() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.12.1-1\nArchitecture: amd64\n\
                    Depends: linux-image-6.12 (= 6.12.1-1), a | b,\n c:any\nDescription: x\n";
        let package = parse_package(text).unwrap();
        assert_eq!(package.depends, ["linux-image-6.12", "a", "c"]);
        let step = parse_step("Inst libaio1 (1:0.3.113-4 Debian:12.15/oldstable [amd64]) []").unwrap();
        assert_eq!(
            (step.file().as_str(), step.request().as_str()),
            ("libaio1_1%3a0.3.113-4_amd64.deb", "libaio1:amd64=1:0.3.113-4")
        );
        let upgraded = parse_step("Inst libssl3:arm64 [3.0.1] (3.0.2 Debian-Security:12 [arm64])").unwrap();
        assert_eq!(upgraded.file(), "libssl3_3.0.2_arm64.deb");
        assert_eq!(parse_step("Conf libaio1 (0.3 Debian [amd64])"), None);
    }
}
