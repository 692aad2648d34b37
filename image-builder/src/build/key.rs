//! The key that signs: made at first use, in the user's own configuration, readable by nobody else.

use super::BuildError;
use bundle::write::SigningKey;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The user's key (XDG Base Directory Specification), made if there is none.
pub fn signing_key() -> Result<SigningKey, BuildError> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let folder = folder.ok_or(BuildError::Key {
        path: "~/.config/redleaf".into(),
        reason: "neither XDG_CONFIG_HOME nor HOME is set".into(),
    })?;
    key_in(&folder.join("redleaf"))
}

fn key_in(folder: &Path) -> Result<SigningKey, BuildError> {
    let path = folder.join("signing.key");
    let failed = |reason: String| BuildError::Key { path: path.clone(), reason };
    match fs::read(&path) {
        Ok(bytes) => {
            let seed: [u8; 32] = bytes.try_into().map_err(|_| {
                failed("isn't 32 bytes; remove it to have another made (what it signed is then foreign)".into())
            })?;
            let mode = fs::metadata(&path).map_err(|error| failed(error.to_string()))?.permissions().mode();
            match mode & 0o077 {
                0 => Ok(SigningKey::from_seed(seed)),
                _ => Err(failed(format!("others can read it; type: chmod 600 {}", path.display()))),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(folder, &path).map_err(|error| failed(error.to_string()))?;
            key_in(folder)
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

fn make(folder: &Path, path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::from)?;
    let own = folder.join(format!("signing.key.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    // Unlike a rename, a link doesn't replace the key that another run has made meanwhile.
    let linked = fs::hard_link(&own, path);
    fs::remove_file(&own)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made once, with nobody else's permissions, and the same ever after.
    #[test]
    fn made_once() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("redleaf");
        let first = key_in(&own).unwrap().public();
        assert_eq!(key_in(&own).unwrap().public(), first);
        let path = own.join("signing.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&own).unwrap().count(), 1, "nothing else is left lying about");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(key_in(&own), Err(BuildError::Key { .. })), "a key that others can read isn't used");
    }
}
