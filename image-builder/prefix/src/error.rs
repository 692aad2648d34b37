//! What can go wrong, with what to do about it.

use crate::Tool;
use std::fmt;
use std::path::PathBuf;

/// Something that this machine lacks, and the line to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub what: String,
    pub line: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    {}", self.what, self.line)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this machine lacks:\n{}", .0.iter().map(|missing| format!("  {missing}")).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<Missing>),

    #[error(
        "no apt source of Debian's main archive is configured (looked through {}); the mirror to fetch {tools} from is taken from there:\n    \
         add a line such as `deb MIRROR trixie main` to /etc/apt/sources.list",
        .looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoMirror { tools: String, looked: Vec<PathBuf> },

    #[error(
        "apt could not fetch {tools}; it says:\n{output}\n    the same command goes on where it stopped, once this is mended"
    )]
    Apt { tools: String, output: String },

    #[error("package {package} did not unpack: {reason}\n    remove {archive} and run the same command again")]
    Unpack { package: String, reason: String, archive: PathBuf },

    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("neither XDG_CACHE_HOME nor HOME is set: say where the cache may be\n    export HOME=...")]
    NoHome,

    #[error("no program {program} among {tools}")]
    NoSuchProgram { program: String, tools: String },

    #[error("{tool} has no file {path}: the packages have changed their layout")]
    NoSuchFile { tool: Tool, path: String },

    #[error("{tool} was not asked for")]
    NotEnsured { tool: Tool },
}

impl Error {
    /// Whether it is the machine that lacks something (exit status 3), rather than the job that failed.
    pub fn is_lack(&self) -> bool {
        matches!(self, Error::Missing(_) | Error::NoMirror { .. } | Error::Apt { .. } | Error::NoHome)
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}
