//! The sabotage tier: for every patch in `testbed/sabotage/`, the suite must fail. It works on a copy of the last commit, so what is not yet
//! committed is neither tested nor harmed. The copy stays under `target/`, so that the next run compiles only what has changed.

use super::{Outcome, Tally};
use crate::workspace::Workspace;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds that a compilation, or a test, may take.
const PATIENCE: u32 = 1_200;
/// The exit status by which timeout(1) says so.
const TIMED_OUT: i32 = 124;

/// One patch and its two opening lines.
#[derive(Debug, PartialEq, Eq)]
struct Sabotage {
    promise: String,
    caught_by: Tests,
}

/// Tests of one target, as a person would ask for them: `-p PACKAGE TARGET [FILTER]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tests {
    package: String,
    /// `--lib`, `--bin NAME` or `--test NAME`.
    target: Vec<String>,
    /// A part of their names.
    filter: Option<String>,
}

impl Tests {
    fn parse(arguments: &str) -> Option<Tests> {
        let mut words = arguments.split_whitespace().map(str::to_owned);
        let package = words.next().filter(|word| word == "-p").and_then(|_| words.next())?;
        let kind = words.next()?;
        let target = match kind.as_str() {
            "--lib" => vec![kind],
            "--bin" | "--test" => vec![kind, words.next()?],
            _ => return None,
        };
        let filter = words.next();
        words.next().is_none().then_some(Tests { package, target, filter })
    }

    /// The same for the whole workspace: asked for one package, cargo would compile what it needs with other features than the suite does, and with
    /// others again for the next patch.
    fn arguments(&self) -> impl Iterator<Item = &str> {
        ["--workspace"].into_iter().chain(self.target.iter().map(String::as_str)).chain(self.filter.as_deref())
    }
}

impl fmt::Display for Tests {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cargo test -p {} {}", self.package, self.target.join(" "))?;
        self.filter.as_ref().map_or(Ok(()), |filter| write!(f, " {filter}"))
    }
}

impl Sabotage {
    fn read(patch: &Path) -> Result<Sabotage, String> {
        Sabotage::parse(&std::fs::read_to_string(patch).map_err(|error| error.to_string())?)
    }

    fn parse(text: &str) -> Result<Sabotage, String> {
        let mut lines = text.lines();
        let mut opening = |key: &str| lines.next().and_then(|line| line.strip_prefix(key)).map(str::trim);
        let lacks = |line| format!("the patch lacks its line `{line}` (see testbed/sabotage/README.md)");
        let promise = opening("Promise:").filter(|promise| !promise.is_empty());
        let caught_by = opening("Caught by:").and_then(Tests::parse);
        Ok(Sabotage {
            promise: promise.ok_or_else(|| lacks("Promise: …"))?.to_owned(),
            caught_by: caught_by.ok_or_else(|| lacks("Caught by: -p PACKAGE TARGET [FILTER]"))?,
        })
    }
}

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let patches = match patches(&workspace.root().join("testbed/sabotage")) {
        Ok(patches) => patches,
        Err(reason) => return tally.record("sabotage", Outcome::Failed(reason), false),
    };
    let mut copy = match Copy::of(workspace) {
        Ok(copy) => copy,
        Err(reason) => {
            return tally.record("a copy of the last commit", Outcome::Failed(reason), false);
        }
    };
    let named = patches.into_iter().map(|patch| {
        let name = format!("sabotage {}", patch.file_stem().unwrap_or_default().to_string_lossy());
        (name, patch)
    });
    let wanted: Vec<(String, PathBuf)> = named.filter(|(name, _)| tally.wants(name)).collect();
    // First all tests as they should be: each patch then costs one compilation, there and not back.
    for (_, patch) in &wanted {
        // What is wrong with a patch's opening lines is said when its turn comes.
        if let Ok(sabotage) = Sabotage::read(patch) {
            copy.learn_whether_sound(&sabotage.caught_by);
        }
    }
    for (name, patch) in wanted {
        tally.check(&name, || Outcome::from(copy.try_patch(&patch)));
    }
}

fn patches(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut patches: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    if patches.is_empty() { Err(format!("no patches in {}", folder.display())) } else { Ok(patches) }
}

/// A clone of the clone, with compiled things of its own.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
    /// Which tests have been seen to pass without any patch.
    sound: BTreeMap<Tests, Result<(), String>>,
}

impl Copy {
    fn of(workspace: &Workspace) -> Result<Copy, String> {
        let folder = workspace.target().join("sabotage");
        let copy = Copy { tree: folder.join("tree"), target: folder.join("target"), sound: BTreeMap::new() };
        if copy.take_last_commit().is_err() {
            // None yet, or one that an interrupted run left half made.
            if copy.tree.exists() {
                std::fs::remove_dir_all(&copy.tree).map_err(|error| format!("{}: {error}", copy.tree.display()))?;
            }
            let clone: [OsString; 5] = [
                "clone".into(),
                "--quiet".into(),
                "--shared".into(),
                workspace.root().into(),
                copy.tree.clone().into(),
            ];
            succeed(Command::new("git").args(clone))?;
        }
        Ok(copy)
    }

    /// The clone's last commit, with the files that it hasn't changed left untouched.
    fn take_last_commit(&self) -> Result<(), String> {
        if !self.tree.join(".git").is_dir() {
            return Err("no copy yet".into());
        }
        succeed(&mut self.git(&["fetch", "--quiet", "origin", "HEAD"]))?;
        succeed(&mut self.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]))?;
        self.restore()
    }

    /// Ok if the suite notices the patch.
    fn try_patch(&mut self, patch: &Path) -> Result<(), String> {
        let sabotage = Sabotage::read(patch)?;
        self.restore()?;
        self.sound.get(&sabotage.caught_by).cloned().unwrap_or(Err("not tried without the patch".into()))?;
        succeed(self.git(&["apply"]).arg(patch))
            .map_err(|error| format!("the patch doesn't apply any more, make it anew: {error}"))?;
        let compiled = self.cargo_test(&sabotage.caught_by, true)?;
        let noticed = !compiled.is_empty() || !self.cargo_test(&sabotage.caught_by, false)?.is_empty();
        self.restore()?;
        if !compiled.is_empty() {
            return Err(format!("the tests don't compile with the patch: {compiled}"));
        }
        if !noticed {
            return Err(format!(
                "nobody noticed: `{}` passes although this is broken: {}",
                sabotage.caught_by, sabotage.promise
            ));
        }
        Ok(())
    }

    /// Tests that fail anyway show nothing.
    fn learn_whether_sound(&mut self, tests: &Tests) {
        if self.sound.contains_key(tests) {
            return;
        }
        let outcome = match self.cargo_test(tests, false) {
            Ok(failure) if failure.is_empty() => Ok(()),
            Ok(failure) => Err(format!("`{tests}` fails without any patch: {failure}")),
            Err(error) => Err(error),
        };
        self.sound.insert(tests.clone(), outcome);
    }

    fn restore(&self) -> Result<(), String> {
        succeed(&mut self.git(&["reset", "--quiet", "--hard"]))?;
        succeed(&mut self.git(&["clean", "--quiet", "-fd"]))
    }

    fn git(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.current_dir(&self.tree).args(arguments);
        command
    }

    /// An empty text if `cargo test` succeeded, and ran at least one test; else what it said last.
    fn cargo_test(&self, tests: &Tests, compile_only: bool) -> Result<String, String> {
        let mut command = super::cargo(PATIENCE);
        command.current_dir(&self.tree).args(["test", "--locked"]);
        if compile_only {
            command.arg("--no-run");
        }
        command.args(tests.arguments()).env("CARGO_TARGET_DIR", &self.target);
        // Paths compiled into a program of the clone would lead back into the clone.
        command.env("REDLEAF_ROOT", &self.tree).env("REDLEAF_TARGET", &self.target);
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let ran = said.lines().filter_map(|line| line.strip_prefix("running ")).any(|rest| !rest.starts_with('0'));
        if output.status.code() == Some(TIMED_OUT) {
            let reason = format!("no end within {PATIENCE} s");
            // Compilers end; a test that a patch keeps from ending has noticed it.
            return if compile_only { Err(reason) } else { Ok(reason) };
        }
        Ok(match (output.status.success(), compile_only || ran) {
            (true, true) => String::new(),
            (true, false) => return Err(format!("`{tests}` runs no test")),
            (false, _) => last_lines(if compile_only { &errors } else { &said }, 3),
        })
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(count)..].join(" / ");
    if text.is_empty() { "it failed without a word".into() } else { text }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(last_lines(&String::from_utf8_lossy(&output.stderr), 3)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A patch tells what it breaks and which test is to notice.
    #[test]
    fn opening_lines() {
        let text = "Promise: one owner\nCaught by: -p interfaces --test refused owner\n\ndiff --git a/x b/x\n";
        let sabotage = Sabotage::parse(text).unwrap();
        assert_eq!(sabotage.promise, "one owner");
        assert_eq!(sabotage.caught_by.to_string(), "cargo test -p interfaces --test refused owner");
        assert!(sabotage.caught_by.arguments().eq(["--workspace", "--test", "refused", "owner"]));
        for caught_by in ["", "-p interfaces", "-p interfaces owner", "--lib", "-p kv --test disk one two"] {
            assert!(Sabotage::parse(&format!("Promise: one owner\nCaught by: {caught_by}\n")).is_err(), "{caught_by}");
        }
        assert!(Sabotage::parse("Promise: one owner\ndiff --git").is_err());
        assert!(Sabotage::parse("diff --git").is_err());
    }

    /// Every patch of the clone can be read, so that none is passed over.
    #[test]
    fn patches_of_the_clone() {
        let folder = Workspace::find().root().join("testbed/sabotage");
        for patch in patches(&folder).unwrap() {
            let text = std::fs::read_to_string(&patch).unwrap();
            Sabotage::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", patch.display()));
        }
    }
}
