//! `redleaf unsafe`: how many lines of the clone say `unsafe`, by tier of trust.
//!
//! A line counts if the compiler would read the word on it, in whatever role: a block, a function, an implementation, an attribute, a macro's own text. Comments and
//! strings don't. In the safe tiers it must be none at all, tests aside; `./redleaf test host` holds that.

use crate::workspace::Workspace;
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A tier of trust, as the README has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    Kernel,
    Interfaces,
    Runtime,
    Devices,
    Drivers,
    Services,
    Host,
    Tests,
}

impl Tier {
    pub const ALL: [Tier; 8] = [
        Tier::Kernel,
        Tier::Interfaces,
        Tier::Runtime,
        Tier::Devices,
        Tier::Drivers,
        Tier::Services,
        Tier::Host,
        Tier::Tests,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Tier::Kernel => "kernel",
            Tier::Interfaces => "interfaces",
            Tier::Runtime => "runtime",
            Tier::Devices => "drivers' trusted crates",
            Tier::Drivers => "drivers",
            Tier::Services => "services",
            Tier::Host => "host (builder and testbed)",
            Tier::Tests => "tests",
        }
    }

    /// Whether not one line may be `unsafe`.
    pub fn is_safe(self) -> bool {
        matches!(self, Tier::Drivers | Tier::Services)
    }

    /// By the file's place in the clone.
    fn of(path: &Path) -> Option<Tier> {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        // Integration tests of any crate are linked into nothing that boots.
        if parts.contains(&"tests") {
            return Some(Tier::Tests);
        }
        match parts[..] {
            ["kernel", ..] => Some(Tier::Kernel),
            ["interfaces", ..] => Some(Tier::Interfaces),
            ["runtime", ..] => Some(Tier::Runtime),
            ["drivers", name, ..] if name.ends_with("-device") => Some(Tier::Devices),
            ["drivers", ..] => Some(Tier::Drivers),
            ["services", ..] => Some(Tier::Services),
            ["image-builder" | "testbed", ..] => Some(Tier::Host),
            _ => None,
        }
    }
}

/// What was found in one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: usize,
    pub lines: usize,
    pub unsafe_lines: usize,
    /// Files with such lines, and how many, in the order of their paths.
    pub places: Vec<(PathBuf, usize)>,
}

/// Counts the clone's sources; an error names the file that can't be read.
pub fn count(workspace: &Workspace) -> Result<Vec<(Tier, Count)>, String> {
    let mut counts: Vec<(Tier, Count)> = Tier::ALL.map(|tier| (tier, Count::default())).into();
    let mut folders = vec![workspace.root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            match path.is_dir() {
                true if name == "target" || name.to_string_lossy().starts_with('.') => {}
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    for path in files {
        let place = path.strip_prefix(workspace.root()).unwrap_or(&path);
        let Some(tier) = Tier::of(place) else { continue };
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", place.display()))?;
        let found = lines(&text).map_err(|error| format!("{}: {error}", place.display()))?;
        let count = &mut counts.iter_mut().find(|(other, _)| *other == tier).expect("all tiers are there").1;
        count.files += 1;
        count.lines += text.lines().count();
        count.unsafe_lines += found;
        if found > 0 {
            count.places.push((place.to_owned(), found));
        }
    }
    Ok(counts)
}

/// Lines on which the word stands as code.
fn lines(text: &str) -> Result<usize, String> {
    fn walk(tokens: TokenStream, found: &mut BTreeSet<usize>) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "unsafe" => _ = found.insert(word.span().start().line),
                TokenTree::Group(group) => walk(group.stream(), found),
                _ => {}
            }
        }
    }
    let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| error.to_string())?;
    let mut found = BTreeSet::new();
    walk(tokens, &mut found);
    Ok(found.len())
}

/// The table that the command prints.
pub fn table(counts: &[(Tier, Count)]) -> String {
    let mut text = format!("{:<28} {:>6} {:>8} {:>8}\n", "tier", "files", "lines", "unsafe");
    for (tier, count) in counts {
        text += &format!("{:<28} {:>6} {:>8} {:>8}\n", tier.name(), count.files, count.lines, count.unsafe_lines);
    }
    text
}

/// What is `unsafe` where nothing may be.
pub fn faults(counts: &[(Tier, Count)]) -> Vec<String> {
    let places = counts.iter().filter(|(tier, _)| tier.is_safe()).flat_map(|(_, count)| &count.places);
    places.map(|(path, lines)| format!("{}: {lines} lines are `unsafe`", path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_counts_and_words_do_not() {
        let text = "// unsafe\nunsafe fn f() {\n    unsafe { unsafe_code() }; \"unsafe\"\n}\n#[unsafe(no_mangle)]\nmacro_rules! m { () => { unsafe {} } }\n#![forbid(unsafe_code)]\n";
        assert_eq!(lines(text), Ok(4));
        assert!(lines("(").is_err());
    }

    /// The clone itself: trusted tiers have some, safe ones none, and nothing is left out.
    #[test]
    fn the_clones_safe_tiers_have_none() {
        let counts = count(&Workspace::find()).unwrap();
        assert_eq!(faults(&counts), Vec::<String>::new());
        for (tier, count) in &counts {
            assert!(count.files > 0, "{}", tier.name());
            assert_eq!(count.unsafe_lines == 0, tier.is_safe(), "{}", tier.name());
        }
    }

    #[test]
    fn places_decide() {
        for (path, tier) in [
            ("kernel/core/src/call.rs", Some(Tier::Kernel)),
            ("drivers/ixgbe-device/src/ring.rs", Some(Tier::Devices)),
            ("drivers/ixgbe/src/lib.rs", Some(Tier::Drivers)),
            ("services/maglev/tests/frames.rs", Some(Tier::Tests)),
            ("testbed/rig/src/rig.rs", Some(Tier::Host)),
            ("build.rs", None),
        ] {
            assert_eq!(Tier::of(Path::new(path)), tier, "{path}");
        }
    }
}
