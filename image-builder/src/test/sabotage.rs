//! The sabotage tier: for every patch in `testbed/sabotage/`, the suite must fail. It works on a copy of the last commit, so what is not yet
//! committed is neither tested nor harmed. The copy stays under `target/`, so that the next run compiles only what has changed.

use super::{Outcome, Tally};
use crate::workspace::Workspace;
use std::collections::BTreeMap;
use std::ffi::OsString;
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
    /// Arguments of `cargo test`.
    caught_by: Vec<String>,
}

impl Sabotage {
    fn read(patch: &Path) -> Result<Sabotage, String> {
        Sabotage::parse(&std::fs::read_to_string(patch).map_err(|error| error.to_string())?)
    }

    fn parse(text: &str) -> Result<Sabotage, String> {
        let mut lines = text.lines();
        let mut opening = |key: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(key))
                .map(|rest| rest.trim().to_owned())
                .filter(|rest| !rest.is_empty())
                .ok_or(format!("the patch lacks its line `{key} …` (see testbed/sabotage/README.md)"))
        };
        Ok(Sabotage {
            promise: opening("Promise:")?,
            caught_by: opening("Caught by:")?.split_whitespace().map(str::to_owned).collect(),
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
    sound: BTreeMap<Vec<String>, Result<(), String>>,
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
                "nobody noticed: `cargo test {}` passes although this is broken: {}",
                sabotage.caught_by.join(" "),
                sabotage.promise
            ));
        }
        Ok(())
    }

    /// Tests that fail anyway show nothing.
    fn learn_whether_sound(&mut self, tests: &[String]) {
        if self.sound.contains_key(tests) {
            return;
        }
        let outcome = match self.cargo_test(tests, false) {
            Ok(failure) if failure.is_empty() => Ok(()),
            Ok(failure) => Err(format!("`cargo test {}` fails without any patch: {failure}", tests.join(" "))),
            Err(error) => Err(error),
        };
        self.sound.insert(tests.to_vec(), outcome);
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
    fn cargo_test(&self, tests: &[String], compile_only: bool) -> Result<String, String> {
        // By `timeout`, which ends the tests together with cargo; and whatever ends this ends it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout"]);
        command.arg(format!("--kill-after={}", PATIENCE / 10)).arg(PATIENCE.to_string());
        command.arg(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(&self.tree).args(["test", "--locked"]);
        if compile_only {
            command.arg("--no-run");
        }
        command.args(tests).env("CARGO_TARGET_DIR", &self.target).stdin(Stdio::null());
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
            (true, false) => return Err(format!("`cargo test {}` runs no test", tests.join(" "))),
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
        let text = "Promise: one owner\nCaught by: -p interfaces owner\n\ndiff --git a/x b/x\n";
        assert_eq!(
            Sabotage::parse(text).unwrap(),
            Sabotage { promise: "one owner".into(), caught_by: vec!["-p".into(), "interfaces".into(), "owner".into()] }
        );
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
