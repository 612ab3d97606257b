//! Parsing of apt's package sources (sources.list(5): one-line and deb822 style), and the mirrors they name.

use std::fmt::Write;

/// One deb822 stanza, or one line of the old style. Only binary (`deb`), enabled entries are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub uris: Vec<String>,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// Other fields that decide whether and how the archive is trusted (`Signed-By`, `Trusted`, …), deb822 names.
    pub options: Vec<(String, String)>,
}

/// deb822 fields that are carried over to the private configuration.
const KEPT: [&str; 6] =
    ["signed-by", "trusted", "check-valid-until", "check-date", "allow-insecure", "allow-weak"];

/// The one-line style: `deb [option=value …] uri suite component…`.
pub(crate) fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let mut source = Source::default();
    rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for option in options.split_whitespace() {
            if let Some((key, value)) = option.split_once('=')
                && KEPT.contains(&key.to_ascii_lowercase().as_str())
            {
                source.options.push((key.to_ascii_lowercase(), value.to_owned()));
            }
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uris.push(words.next()?);
    source.suites.push(words.next()?);
    source.components = words.collect();
    Some(source)
}

/// The deb822 style: stanzas of `Field: value`, continued on indented lines.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)]) -> Option<Source> {
    let value = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> {
        value(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let disabled = value("enabled").is_some_and(|v| matches!(v, "no" | "false" | "0" | "off" | "without"));
    let source = Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        options: fields.iter().filter(|(key, _)| KEPT.contains(&key.as_str())).cloned().collect(),
    };
    let usable = words("types").iter().any(|kind| kind == "deb")
        && !disabled
        && !source.uris.is_empty()
        && !source.suites.is_empty();
    usable.then_some(source)
}

impl Source {
    /// The source as a deb822 stanza.
    pub fn to_deb822(&self) -> String {
        let mut text =
            format!("Types: deb\nURIs: {}\nSuites: {}\n", self.uris.join(" "), self.suites.join(" "));
        if !self.components.is_empty() {
            let _ = writeln!(text, "Components: {}", self.components.join(" "));
        }
        for (key, value) in &self.options {
            let _ = writeln!(text, "{key}: {value}");
        }
        text
    }

    /// The same archive, trusted if signed with a key of the file `keyring`.
    pub(crate) fn signed_by(&self, keyring: &str) -> Self {
        let mut source = self.clone();
        source.options.retain(|(key, _)| key != "signed-by");
        source.options.push(("signed-by".into(), keyring.into()));
        source
    }

    fn has_suite(&self, suite: &str) -> bool {
        self.suites.iter().any(|known| known == suite)
    }
}

/// The machine's Debian archives: the main one and, if configured, the security archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    pub main: Source,
    pub security: Option<Source>,
}

impl Mirrors {
    /// Finds the archives among the machine's sources: main is the one that serves `codename` (or an alias such as
    /// `stable`) with the component main.
    pub fn find(sources: &[Source], codename: &str) -> Option<Self> {
        let aliases = [codename, "stable", "oldstable", "oldoldstable", "testing", "sid", "unstable"];
        let with_main = |source: &&Source| {
            source.components.iter().any(|component| component == "main")
                && source.uris.iter().any(|uri| !uri.starts_with("cdrom:"))
        };
        let main = aliases
            .iter()
            .find_map(|suite| sources.iter().filter(with_main).find(|source| source.has_suite(suite)))?;
        let security = sources
            .iter()
            .filter(with_main)
            .find(|source| source.suites.iter().any(|suite| suite.ends_with("-security")));
        Some(Self { main: main.clone(), security: security.cloned() })
    }

    /// Sources for other suites of the same archives, component main. Suites named `*-security` are left out if the
    /// machine has no security archive.
    pub fn sources_for(&self, suites: &[String]) -> Vec<Source> {
        let (security, main): (Vec<_>, Vec<_>) =
            suites.iter().cloned().partition(|suite| suite.ends_with("-security"));
        [(Some(&self.main), main), (self.security.as_ref(), security)]
            .into_iter()
            .filter_map(|(archive, suites)| {
                let archive = archive.filter(|_| !suites.is_empty())?;
                Some(Source { suites, components: vec!["main".into()], ..archive.clone() })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
Architectures: amd64
";

    #[test]
    fn deb822_stanzas_parse() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].options, [("signed-by".into(), "/usr/share/keyrings/debian.gpg".into())]);
        assert!(sources[1].options[0].1.contains("\n abc\n"));
        assert_eq!(parse_deb822(&sources[1].to_deb822()), sources[1..], "stanzas read back as written");
    }

    #[test]
    fn lines_parse() {
        let sources = parse_lines(
            "deb [arch=amd64 signed-by=/k.gpg trusted=yes] https://m.example/debian/ trixie main # x\n\
             deb-src http://m.example/debian trixie main\n\
             #deb http://no.example/debian trixie main\n\
             debug nonsense here\n\
             deb http://m.example/flat ./\n\
             deb\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].uris, ["https://m.example/debian/"]);
        assert_eq!(
            sources[0].options,
            [("signed-by".into(), "/k.gpg".into()), ("trusted".into(), "yes".into())]
        );
        assert_eq!(sources[1].suites, ["./"]);
    }

    #[test]
    fn other_suites_come_from_the_machines_archives() {
        let suites = ["bookworm".into(), "bookworm-security".into(), "bookworm-backports".into()];
        let mirrors = Mirrors::find(&parse_deb822(DEB822), "bookworm").unwrap();
        let sources = mirrors.sources_for(&suites);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].uris, ["http://mirror.example/debian"]);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-backports"]);
        assert_eq!(sources[0].components, ["main"]);
        assert_eq!(sources[1].uris, ["http://mirror.example/debian-security"]);
        assert_eq!(sources[1].suites, ["bookworm-security"]);

        let without =
            Mirrors::find(&parse_lines("deb http://m.example/debian stable main"), "bookworm").unwrap();
        assert_eq!(without.sources_for(&suites).len(), 1);
    }

    #[test]
    fn machines_without_the_debian_archive_are_recognised() {
        assert_eq!(Mirrors::find(&parse_lines("deb http://a.example/ubuntu noble main"), "bookworm"), None);
        assert_eq!(Mirrors::find(&parse_lines("deb cdrom:[Debian]/ bookworm main"), "bookworm"), None);
        assert_eq!(Mirrors::find(&[], "bookworm"), None);
    }
}
