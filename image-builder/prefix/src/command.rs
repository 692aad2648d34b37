//! Running a program of the prefix with the prefix's own loader and libraries: the machine's may be older.

use crate::{Error, Prefix, Tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs and libraries lie in an unpacked Debian tree.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];
const LIBRARY_FOLDERS: [&str; 5] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/lib/x86_64-linux-gnu/pulseaudio",
    "usr/lib/x86_64-linux-gnu/ceph",
];
const LOADERS: [&str; 3] =
    ["usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"];
/// Where QEMU's firmware and option ROMs lie.
const QEMU_DATA_FOLDERS: [&str; 4] = ["usr/share/qemu", "usr/share/seabios", "usr/share/ovmf", "usr/lib/ipxe/qemu"];

/// Where Perl's modules lie; those of one version in a folder of its number.
const PERL_FOLDERS: [&str; 5] = [
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/perl5",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
];

impl Prefix {
    /// A command that runs `program`, to which arguments can be added. The working directory, environment and streams are the caller's.
    pub fn command(&self, program: &str) -> Result<Command, Error> {
        let (tool, tree, path) = self.find(program)?;
        if tool == Tool::Browser {
            return Ok(in_the_place_of_usr(tree, program));
        }
        if is_script(&path) || tool == Tool::Linux {
            // Scripts and static programs need no loader of ours.
            return Ok(Command::new(path));
        }
        let mut command = self.command_with(tool, &path, program)?;
        if program.starts_with("qemu-system") {
            for folder in QEMU_DATA_FOLDERS.iter().map(|folder| tree.join(folder)).filter(|folder| folder.is_dir()) {
                command.arg("-L").arg(folder);
            }
            command.env("QEMU_MODULE_DIR", tree.join("usr/lib/x86_64-linux-gnu/qemu"));
        }
        if program == "python3" {
            command.env("PYTHONHOME", tree.join("usr")).env("PYTHONPATH", tree.join("usr/lib/python3/dist-packages"));
        }
        if program == "perl" {
            let modules: Vec<PathBuf> =
                PERL_FOLDERS.iter().flat_map(|folder| versions_of(&tree.join(folder))).collect();
            command.env("PERL5LIB", std::env::join_paths(modules).unwrap_or_default());
        }
        Ok(command)
    }

    /// A command that runs a program from elsewhere, under this name, with the loader and libraries of `tool`.
    pub fn command_with(&self, tool: Tool, program: &Path, name: &str) -> Result<Command, Error> {
        let tree = self.tree(tool)?;
        let loader = LOADERS.iter().map(|loader| tree.join(loader)).find(|loader| loader.exists());
        let loader = loader.ok_or(Error::NoSuchFile { tool, path: LOADERS[0].to_owned() })?;
        let libraries: Vec<_> =
            LIBRARY_FOLDERS.iter().map(|folder| tree.join(folder)).filter(|folder| folder.is_dir()).collect();
        let libraries = std::env::join_paths(libraries).unwrap_or_default();
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(libraries).args(["--argv0", name]).arg(program);
        Ok(command)
    }

    fn find(&self, program: &str) -> Result<(Tool, &Path, PathBuf), Error> {
        let places = self.trees.iter().flat_map(|(tool, tree)| {
            PROGRAM_FOLDERS.iter().map(move |folder| (*tool, tree.as_path(), tree.join(folder).join(program)))
        });
        places.into_iter().find(|(_, _, path)| path.is_file()).ok_or_else(|| Error::NoSuchProgram {
            program: program.to_owned(),
            tools: self.trees.iter().map(|(tool, _)| tool.to_string()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// A command for a program that starts itself anew by its own path, and finds its data beside that: its tree takes the place of the machine's `/usr`, for it alone.
/// Mounting is root's, or in the lab anybody's.
fn in_the_place_of_usr(tree: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /usr && exec "$@""#]);
    command.arg(tree.join("usr")).arg(format!("/usr/lib/chromium/{program}"));
    command.env("FONTCONFIG_PATH", tree.join("etc/fonts"));
    command
}

/// A folder, and those in it that are called by a number of a version.
fn versions_of(folder: &Path) -> Vec<PathBuf> {
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_version = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(|first: char| first.is_ascii_digit()))
    };
    [folder.to_owned()].into_iter().chain(inside.filter(is_version)).collect()
}

fn is_script(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start == *b"#!")
}
