//! Which mirror the machine fetches Debian's main archive from, read from its own apt sources in both formats (sources.list(5)).

use crate::Error;
use crate::apt;
use std::fs;
use std::path::{Path, PathBuf};

/// Names by which a source of the main archive is recognised, whatever release the machine runs. Security and third-party suites have others.
const RELEASES: [&str; 10] =
    ["buster", "bullseye", "bookworm", "trixie", "forky", "oldoldstable", "oldstable", "stable", "testing", "sid"];

/// A source of Debian's main archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    uri: String,
    /// As it stood there: a path, a fingerprint, or a whole key over several lines.
    signed_by: Option<String>,
    trusted: bool,
}

impl Mirror {
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The stanza for our own root.
    pub(crate) fn stanza(&self, suites: &[&str]) -> String {
        let mut stanza = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: amd64\n",
            self.uri,
            suites.join(" ")
        );
        if let Some(signed_by) = &self.signed_by {
            stanza += &format!("Signed-By: {signed_by}\n");
        }
        if self.trusted {
            stanza += "Trusted: yes\n";
        }
        stanza
    }

    /// The one that the machine's own apt uses.
    pub(crate) fn of_this_machine(tools: &str) -> Result<Mirror, Error> {
        let files = apt::source_files();
        files
            .iter()
            .filter_map(|path| Some((path, fs::read_to_string(path).ok()?)))
            .find_map(|(path, text)| Mirror::parse(path, &text))
            .ok_or_else(|| Error::NoMirror { tools: tools.to_owned(), looked: files.clone() })
    }

    fn parse(path: &Path, text: &str) -> Option<Mirror> {
        match path.extension().is_some_and(|extension| extension == "sources") {
            true => stanzas(text).iter().find_map(from_stanza),
            false => text.lines().find_map(from_line),
        }
    }
}

fn is_main_archive(suites: &str, components: &str) -> bool {
    suites.split_whitespace().any(|suite| RELEASES.contains(&suite))
        && components.split_whitespace().any(|component| component == "main")
}

/// `deb [options] uri suite component...`
fn from_line(line: &str) -> Option<Mirror> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let line = line.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match line.strip_prefix('[') {
        Some(line) => line.split_once(']')?,
        None => ("", line),
    };
    let (uri, rest) = rest.trim_start().split_once(char::is_whitespace)?;
    let (suite, components) = rest.trim_start().split_once(char::is_whitespace)?;
    let option =
        |name: &str| options.split_whitespace().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    is_main_archive(suite, components).then(|| Mirror {
        uri: uri.to_owned(),
        signed_by: option("signed-by").map(str::to_owned),
        trusted: option("trusted") == Some("yes"),
    })
}

type Stanza = Vec<(String, String)>;

/// deb822: fields `Name: value`, continued on indented lines, stanzas parted by empty lines.
fn stanzas(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            stanzas.push(Stanza::new());
        } else if let Some(fields) = stanzas.last_mut() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    *value += "\n";
                    *value += line;
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_lowercase(), value.trim().to_owned()));
            }
        }
    }
    stanzas
}

fn from_stanza(stanza: &Stanza) -> Option<Mirror> {
    let field = |name: &str| stanza.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let binary = field("types")?.split_whitespace().any(|kind| kind == "deb");
    let enabled = field("enabled").is_none_or(|enabled| enabled != "no");
    (binary && enabled && is_main_archive(field("suites")?, field("components")?)).then_some(())?;
    Some(Mirror {
        uri: field("uris")?.split_whitespace().next()?.to_owned(),
        signed_by: field("signed-by").map(str::to_owned),
        trusted: field("trusted") == Some("yes"),
    })
}

/// For messages: where the machine's sources were looked for.
pub(crate) fn looked_through(list: PathBuf, parts: PathBuf) -> Vec<PathBuf> {
    let mut files = vec![list];
    let entries = fs::read_dir(&parts).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut inside: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "sources" || extension == "list"))
        .collect();
    inside.sort();
    files.extend(inside);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> Option<Mirror> {
        Mirror::parse(Path::new(name), text)
    }

    /// Debian 13's own form, with a third party's source before it and security after it.
    #[test]
    fn deb822() {
        let text = "Types: deb\nURIs: https://third.example/x\nSuites: nodistro\nComponents: main\n\n\
                    # the archive\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\n\
                    Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let mirror = parse("debian.sources", text).unwrap();
        assert_eq!(mirror.uri, "http://mirror.example/debian");
        assert_eq!(mirror.signed_by.as_deref(), Some("/usr/share/keyrings/debian-archive-keyring.gpg"));
        assert!(mirror.stanza(&["trixie"]).contains("Suites: trixie\n"));
    }

    /// A key that stands in the file itself keeps its lines.
    #[test]
    fn inline_key() {
        let text = "Types: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
        let mirror = parse("a.sources", text).unwrap();
        assert!(mirror.stanza(&["trixie"]).contains("Signed-By: \n -----BEGIN\n .\n abc\n"));
    }

    /// The older form, with and without options; sources, comments and security suites don't count.
    #[test]
    fn one_line() {
        let text = "# deb http://no/debian bookworm main\ndeb-src http://no/debian bookworm main\n\
                    deb http://security.example/ bookworm-security main\ndeb [ arch=amd64 signed-by=/k.gpg ] http://m/debian bookworm main non-free\n";
        let mirror = parse("sources.list", text).unwrap();
        assert_eq!((mirror.uri.as_str(), mirror.signed_by.as_deref()), ("http://m/debian", Some("/k.gpg")));
        assert_eq!(parse("sources.list", "deb http://m/debian stable main").unwrap().uri, "http://m/debian");
        assert_eq!(parse("sources.list", "deb http://m/debian bookworm contrib"), None);
        assert_eq!(parse("sources.list", "deb\n\ndeb [\ndeb x\n"), None);
    }

    /// A source that is switched off isn't used.
    #[test]
    fn disabled() {
        assert_eq!(
            parse("a.sources", "Types: deb\nURIs: http://m\nSuites: trixie\nComponents: main\nEnabled: no\n"),
            None
        );
    }
}
