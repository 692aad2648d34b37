//! Holds docs/SOUNDNESS.md and docs/PROMISES.md to the code: what they name is there, and what the code names is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where `unsafe` is at home.
const TRUSTED: [&str; 5] = ["kernel", "interfaces", "runtime", "drivers/ixgbe-device", "drivers/nvme-device"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The Rust sources below a folder of the repository, or the one that `place` itself is.
fn sources(place: &str) -> Vec<PathBuf> {
    let path = root().join(place);
    if path.is_file() {
        return vec![path];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).into_iter().flatten() {
        let path = entry.expect("a readable folder").path();
        let relative = path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned();
        // Programs that must not compile are read by no image.
        if path.is_dir() && !relative.ends_with("/target") && !relative.contains("/tests/") {
            found.extend(sources(&relative));
        } else if relative.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Sections of a page: the heading, and the text below it.
fn sections(page: &str) -> BTreeMap<String, String> {
    let text = read(root().join("docs").join(page));
    let parts = text.split("\n## ").skip(1).map(|part| part.split_once('\n').expect("a heading stands on a line"));
    parts.map(|(heading, text)| (heading.trim().to_lowercase(), text.to_owned())).collect()
}

/// What stands between backticks in `text`.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A paragraph of a section, such as that which begins with `*Covers.*`.
fn paragraph<'a>(text: &'a str, begins: &str) -> Option<&'a str> {
    text.split("\n\n").map(str::trim).find(|paragraph| paragraph.starts_with(begins))
}

/// Lines of code, without comments, that have the word `unsafe`.
fn unsafe_lines(source: &str) -> usize {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")).count()
}

/// Every name in a `(SOUNDNESS: NAME)` of the code is a section.
#[test]
fn names_in_the_code_are_sections() {
    let sections = sections("SOUNDNESS.md");
    let mut names = 0;
    for place in ["kernel", "interfaces", "runtime", "drivers", "testbed"] {
        for path in sources(place).iter().filter(|path| !path.ends_with(file!().rsplit('/').next().unwrap())) {
            let text = read(path).replace("\n///", "").replace("\n//!", "").replace('\n', " ");
            let text = text.split_whitespace().filter(|word| *word != "//").collect::<Vec<_>>().join(" ");
            for rest in text.split("(SOUNDNESS: ").skip(1) {
                let name = rest.split([')', ';']).next().expect("split gives one part at least");
                assert!(sections.contains_key(&name.to_lowercase()), "{}: no section {name:?}", path.display());
                names += 1;
            }
        }
    }
    assert!(names > 0);
}

/// Every file of the trusted tiers with `unsafe` in its code is covered by a section, and every file that is said to be covered has some.
#[test]
fn every_file_with_unsafe_is_covered() {
    let sections = sections("SOUNDNESS.md");
    let covered: BTreeSet<&str> =
        sections.values().filter_map(|text| paragraph(text, "*Covers.*")).flat_map(quoted).collect();
    let with_unsafe: BTreeSet<String> = TRUSTED
        .iter()
        .flat_map(|place| sources(place))
        .filter(|path| unsafe_lines(&read(path)) > 0)
        .map(|path| path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned())
        // Tests of the trusted tiers are the host's.
        .filter(|path| !path.contains("/tests/") && !path.contains("/benches/"))
        .collect();
    let uncovered: Vec<_> = with_unsafe.iter().filter(|path| !covered.contains(path.as_str())).collect();
    assert!(uncovered.is_empty(), "no section covers {uncovered:#?}");
    let idle: Vec<_> = covered.iter().filter(|path| !with_unsafe.contains(**path)).collect();
    assert!(idle.is_empty(), "covered, but without unsafe code (or not there): {idle:#?}");
}

/// Each section says what its invariant is, why it holds, where, and what tests it.
#[test]
fn sections_are_complete() {
    let mut sections = sections("SOUNDNESS.md");
    assert!(sections.remove("threat model").is_some(), "the page opens with the threat model");
    for (name, text) in sections {
        for part in ["*Invariant.*", "*Why.*", "*Code.*", "*Covers.*", "*Tested by.*"] {
            assert!(paragraph(&text, part).is_some(), "{name} has no {part}");
        }
    }
}

/// Walks over what a paragraph quotes: a path, then tests in it. Says what isn't there.
fn missing(paragraph: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut place = String::new();
    for word in quoted(paragraph) {
        let is_name = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if word.contains('/') && !word.contains('*') && !word.contains(' ') {
            place = word.to_owned();
            if !root().join(&place).exists() {
                missing.push(place.clone());
            }
        } else if is_name && word.contains('_') {
            let declared = [format!("fn {word}("), format!("mod {word} ")];
            let here = |path: &PathBuf| declared.iter().any(|declared| read(path).contains(declared));
            let tests = root().join(&place).join("tests");
            let below = if tests.is_dir() { format!("{place}/tests") } else { place.clone() };
            if !sources(&place).iter().chain(&sources(&below)).any(here) {
                missing.push(format!("{word} in {place}"));
            }
        }
    }
    missing
}

/// The tests and files that a section names exist.
#[test]
fn what_soundness_names_exists() {
    for (name, text) in sections("SOUNDNESS.md") {
        for part in ["*Code.*", "*Tested by.*"] {
            let missing = paragraph(&text, part).map(missing).unwrap_or_default();
            assert!(missing.is_empty(), "{name}, {part} {missing:#?}");
        }
    }
}

/// Each claim of PROMISES stands beside tests that exist.
#[test]
fn what_promises_names_exists() {
    let page = read(root().join("docs/PROMISES.md"));
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .filter(|row: &Vec<&str>| row[0] != "claim" && !row[0].starts_with("---"))
        .collect();
    assert!(rows.len() > 20, "only {} claims", rows.len());
    for row in rows {
        assert_eq!(row.len(), 2, "a claim and what holds it: {row:?}");
        let missing = missing(row[1]);
        assert!(missing.is_empty(), "{}: {missing:#?}", row[0]);
        assert!(quoted(row[1]).len() >= 2 || row[1].starts_with("`./redleaf"), "{}: nothing holds it", row[0]);
    }
}

/// Folders below `place` that are crates.
fn crates(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).into_iter().flatten() {
        let path = entry.expect("a readable folder").path();
        let hidden = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_none_or(|name| name.starts_with('.') || name == "target");
        if path.is_dir() && !hidden {
            if path.join("Cargo.toml").is_file() {
                found.push(path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned());
            }
            found.extend(crates(&path));
        }
    }
    found
}

/// ARCHITECTURE's table of crates names every crate, and none that isn't there.
#[test]
fn architecture_names_every_crate() {
    let sections = sections("ARCHITECTURE.md");
    let rows = sections["crates"]
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(" | "))
        .map(|(paths, _)| paths);
    let named: Vec<&str> = rows.flat_map(|paths| paths.split('`').step_by(2)).filter(|path| !path.is_empty()).collect();
    let stands_for = |pattern: &str, path: &str| match pattern.strip_suffix("/NAME") {
        Some(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.trim_matches('/').split('/').count() == 1),
        None => pattern == path,
    };
    let crates = crates(root());
    for path in &crates {
        assert!(named.iter().any(|pattern| stands_for(pattern, path)), "{path} is not in the table");
    }
    for pattern in named {
        let exists = root().join(pattern).is_dir() || crates.iter().any(|path| stands_for(pattern, path));
        assert!(exists, "{pattern} is in the table, and not there");
    }
}

/// Every invariant of the design is broken by some patch of the sabotage, and every patch that its table names is there.
#[test]
fn every_invariant_is_sabotaged() {
    let table = read(root().join("testbed/sabotage/README.md"));
    for number in 1..=9 {
        let row = table.lines().find(|line| line.starts_with(&format!("| {number}. "))).expect("a row of the table");
        let patches = quoted(row.rsplit('|').nth(1).expect("a row has cells"));
        assert!(patches.len() > 2, "invariant {number} is hardly broken");
        for patch in patches {
            let path = root().join(format!("testbed/sabotage/{patch}.patch"));
            assert!(path.is_file(), "invariant {number}: no patch {patch}");
        }
    }
}
