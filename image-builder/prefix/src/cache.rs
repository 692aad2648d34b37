//! Where trees lie, and how one gets there: one at a time, wholly or not at all.

use crate::apt::{self, Apt, progress_bar};
use crate::{Error, Tool};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The project's folder in the user's cache (XDG Base Directory Specification).
pub fn cache_folder() -> Result<PathBuf, Error> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("redleaf"))
        .ok_or(Error::NoHome)
}

pub(crate) fn tree_folder(home: &Path, tool: Tool) -> PathBuf {
    home.join(tool.folder())
}

/// Fetches and unpacks `tools`. The lock is held until all are done; whoever waited finds them there.
pub(crate) fn fetch(home: &Path, tools: &[Tool]) -> Result<(), Error> {
    let missing = apt::lacks();
    if !missing.is_empty() {
        return Err(Error::Missing(missing));
    }
    fs::create_dir_all(home).map_err(Error::file("creating", home))?;
    let lock_path = home.join("lock");
    let lock = File::create(&lock_path).map_err(Error::file("creating", &lock_path))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another run that fetches tools");
        lock.lock().map_err(Error::file("locking", &lock_path))?;
    }
    let absent: Vec<Tool> = tools.iter().copied().filter(|&tool| !tree_folder(home, tool).is_dir()).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let names = absent.iter().map(Tool::to_string).collect::<Vec<_>>().join(", ");
    eprintln!("fetching into {}, once: {names}", home.display());
    let apt = Apt::prepare(&home.join("apt"), &names)?;
    apt.update(&names)?;
    absent.iter().try_for_each(|&tool| fetch_one(home, &apt, tool))
}

fn fetch_one(home: &Path, apt: &Apt, tool: Tool) -> Result<(), Error> {
    let packages = apt.resolve(tool)?;
    apt.download(tool)?;

    // Under the lock, so a folder of that name is what an interrupted run left.
    let unfinished = home.join(format!("{}.unfinished", tool.folder()));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(Error::file("removing", &unfinished))?;
    }
    fs::create_dir_all(&unfinished).map_err(Error::file("creating", &unfinished))?;
    let bar = progress_bar(&format!("unpacking {tool}"), packages.len() as u64);
    for package in &packages {
        apt.unpack(package, &unfinished)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let list: String = packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
    let list_path = unfinished.join("packages");
    fs::write(&list_path, list).map_err(Error::file("writing", list_path))?;
    let tree = tree_folder(home, tool);
    fs::rename(&unfinished, &tree).map_err(Error::file("renaming", unfinished))
}
