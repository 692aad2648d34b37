//! Packs a folder that a `config` table names into the archive that its domain reads: every file with its type and its date, and a compressed form where that is
//! worth it.

use flate2::{Compression, write::GzEncoder};
use interfaces::folder::{self, Coding, File, Folder, Representation};
use std::{fs, hash::Hasher, io::Write, path::Path, time::UNIX_EPOCH};

/// Bytes of an archive at most: it is a part of the compiled manifest, of which the kernel takes 4 MiB (`bundle::format::MAX_MANIFEST_BYTES`), and leaves room for what else is in there.
const MOST_BYTES: usize = (4 << 20) - (64 << 10);
/// A compressed form is kept if it is shorter by this part of the file.
const WORTH: usize = 10;

/// A file, and its forms.
struct Packed {
    path: Vec<u8>,
    media_type: &'static str,
    modified: i64,
    forms: Vec<Form>,
}

struct Form {
    coding: Coding,
    tag: u64,
    bytes: Vec<u8>,
}

impl Form {
    fn new(coding: Coding, bytes: Vec<u8>) -> Form {
        let mut hasher = twox_hash::XxHash64::default();
        hasher.write(&bytes);
        Form { coding, tag: hasher.finish(), bytes }
    }

    fn representation(&self) -> Representation<'_> {
        Representation { coding: self.coding, tag: self.tag, bytes: &self.bytes }
    }
}

/// The folder at `path`, packed. The error says what is wrong with it, for who wrote the path.
pub fn pack(path: &Path) -> Result<Folder, String> {
    let mut files = Vec::new();
    collect(path, &mut Vec::new(), &mut files)?;
    if files.is_empty() {
        return Err(format!("there is no file in {}", path.display()));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let files: Vec<File> = files
        .iter()
        .map(|file| File {
            path: &file.path,
            media_type: file.media_type,
            modified: file.modified,
            representations: file.forms.iter().map(Form::representation).collect(),
        })
        .collect();
    let archive = folder::write(&files);
    if archive.len() > MOST_BYTES {
        return Err(format!(
            "{} is {} KiB, packed; {} KiB at most: leave something out",
            path.display(),
            archive.len().div_ceil(1 << 10),
            MOST_BYTES >> 10
        ));
    }
    Ok(Folder::packed(archive))
}

/// Adds what lies in `folder` and below. What is hidden is left out; a link, which may lead anywhere, is refused.
fn collect(folder: &Path, prefix: &mut Vec<u8>, files: &mut Vec<Packed>) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".") {
            continue;
        }
        let (path, metadata) = (entry.path(), entry.metadata().map_err(at)?);
        let before = prefix.len();
        prefix.extend_from_slice(name);
        if metadata.is_dir() {
            prefix.push(b'/');
            collect(&path, prefix, files)?;
        } else if metadata.is_file() {
            let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |since| since.as_secs() as i64);
            files.push(Packed { path: prefix.clone(), media_type: media_type(name), modified, forms: forms(bytes) });
        } else {
            return Err(format!("{} is neither a file nor a folder", path.display()));
        }
        prefix.truncate(before);
    }
    Ok(())
}

/// A file as it is, and compressed if that is worth it.
fn forms(bytes: Vec<u8>) -> Vec<Form> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a vector doesn't fail.
    let gzip = encoder.write_all(&bytes).and_then(|()| encoder.finish()).unwrap_or_default();
    let worth = !gzip.is_empty() && gzip.len() + bytes.len() / WORTH < bytes.len();
    let mut forms = vec![Form::new(Coding::Identity, bytes)];
    if worth {
        forms.push(Form::new(Coding::Gzip, gzip));
    }
    forms
}

/// By the name's ending, as the IANA has them; what isn't known is bytes.
fn media_type(name: &[u8]) -> &'static str {
    let ending = name.rsplit(|&byte| byte == b'.').next().unwrap_or_default().to_ascii_lowercase();
    match ending.as_slice() {
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"js" | b"mjs" => "text/javascript; charset=utf-8",
        b"txt" | b"md" => "text/plain; charset=utf-8",
        b"json" => "application/json",
        b"xml" => "application/xml",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"ico" => "image/x-icon",
        b"wasm" => "application/wasm",
        b"pdf" => "application/pdf",
        b"woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::folder::Files;

    /// A tree is packed by its paths, hidden files are left out, text is compressed and noise isn't.
    #[test]
    fn a_tree_is_packed() {
        let root = std::env::temp_dir().join(format!("pack-{}", std::process::id()));
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("index.html"), "<p>hello</p>".repeat(100)).unwrap();
        fs::write(root.join("sub/x.PNG"), [1, 2, 3]).unwrap();
        fs::write(root.join(".hidden"), "secret").unwrap();
        let folder = pack(&root).unwrap();
        let files = Files::read(folder.archive()).unwrap();
        let seen: Vec<_> =
            files.files().iter().map(|file| (file.path, file.media_type, file.representations.len())).collect();
        assert_eq!(seen, [(b"index.html".as_slice(), "text/html; charset=utf-8", 2), (b"sub/x.PNG", "image/png", 1)]);
        assert!(files.find(b"index.html").unwrap().modified > 1_600_000_000);

        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        assert!(pack(&root).unwrap_err().contains("neither"), "a link leads out of the folder");
        fs::remove_dir_all(&root).unwrap();
        assert!(pack(&root).is_err());
    }
}
