//! Why a run could not be made. A run that was made and went badly is a [`crate::Report`] with reasons, not an error.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine doesn't let us have namespaces.
    #[error(
        "this machine doesn't allow user namespaces ({0}); as root: sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 \
         kernel.apparmor_restrict_unprivileged_userns=0 (those of them that it has)"
    )]
    Namespaces(String),
    #[error("cannot start {what} ({program}): {source}")]
    Start { what: &'static str, program: PathBuf, source: io::Error },
    #[error("{0}")]
    Options(String),
    #[error("the lab's {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the lab's network: {step}: {reason}")]
    Network { step: String, reason: String },
    #[error("the lab's inner process ended without a report: {0}")]
    Ended(String),
    /// What an inner process said that the machine lacks.
    #[error("{0}")]
    Lack(String),
    /// What an inner process said; its kind is lost, its words aren't.
    #[error("{0}")]
    Inner(String),
    #[error("cannot write the report to {path}: {source}")]
    Report { path: PathBuf, source: io::Error },
    #[error("interrupted before there was anything to report")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// Whether the machine lacks something (exit status 3), rather than the job having failed (1).
    pub fn is_lack(&self) -> bool {
        matches!(self, Error::Namespaces(_) | Error::Start { .. } | Error::Lack(_))
    }
}
