//! What a request asks for: the path of its target, decoded and normalised, so that a file has one name and nothing lies above the root.

use alloc::vec::Vec;

use crate::{head::is_authority, status::Status};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `*`: the server itself.
    Server,
    /// A path without its leading slash; empty for the root. It ends in a slash if it names a folder.
    Path(Vec<u8>),
}

/// What is served of a folder.
pub const INDEX: &[u8] = b"index.html";

/// Reads a request target (RFC 9112 §3.2): `origin-form`, `absolute-form` of http, or `*`.
pub fn read(target: &[u8]) -> Result<Target, Status> {
    if target == b"*" {
        return Ok(Target::Server);
    }
    let path = if target.starts_with(b"/") { target } else { after_authority(target)? };
    let path = path.split(|&byte| byte == b'?').next().unwrap_or_default();
    // A fragment is the client's own, and is never sent (RFC 9110 §4.2.5).
    if path.contains(&b'#') {
        return Err(Status::BadRequest);
    }
    normalise(path).map(Target::Path)
}

/// The path and query of `http://authority/path`.
fn after_authority(target: &[u8]) -> Result<&[u8], Status> {
    let (scheme, rest) = target.split_at_checked(7).ok_or(Status::BadRequest)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return Err(Status::BadRequest);
    }
    let end = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
    if end == 0 || !is_authority(&rest[..end]) {
        return Err(Status::BadRequest);
    }
    Ok(if end == rest.len() { b"/" } else { &rest[end..] })
}

/// Without percent-encodings, and without `.`, `..` and empty segments (RFC 3986 §5.2.4). A path that leads above the root is refused rather than cut.
fn normalise(path: &[u8]) -> Result<Vec<u8>, Status> {
    // Each segment with a slash behind it. There is room for what is looked up instead of a folder.
    let mut normal = Vec::with_capacity(path.len() + INDEX.len());
    let mut folder = true;
    for segment in path.split(|&byte| byte == b'/') {
        let start = normal.len();
        decode(segment, &mut normal)?;
        folder = matches!(&normal[start..], b"" | b"." | b"..");
        if !folder {
            normal.push(b'/');
            continue;
        }
        let up = normal[start..] == *b"..";
        normal.truncate(start);
        if up {
            normal.pop().ok_or(Status::BadRequest)?;
            let parent = normal.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            normal.truncate(parent);
        }
    }
    if !folder {
        normal.pop();
    }
    Ok(normal)
}

/// Appends a segment without percent-encodings (RFC 3986 §2.1). A NUL, or a slash that is encoded and so no separator, is in no name of ours.
fn decode(segment: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let mut rest = segment;
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        out.extend_from_slice(&rest[..at]);
        let digit = |at: usize| rest.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(Status::BadRequest) };
        match (high * 16 + low) as u8 {
            0 => return Err(Status::BadRequest),
            b'/' => return Err(Status::NotFound),
            byte => out.push(byte),
        }
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(target: &str) -> Result<Target, Status> {
        read(target.as_bytes())
    }

    #[test]
    fn a_file_has_one_name() {
        for target in [
            "/a/b",
            "//a//b",
            "/a/./b",
            "/./a/c/../b",
            "/%61/%62",
            "http://host/a/b",
            "HTTP://h:80/a/b?q=/..",
            "/a/b?x",
            "/x/%2e%2E/a/b",
        ] {
            assert_eq!(path(target), Ok(Target::Path(b"a/b".to_vec())), "{target}");
        }
        for target in ["/", "//", "/.", "/a/..", "http://host", "http://host?q", "/?"] {
            assert_eq!(path(target), Ok(Target::Path(b"".to_vec())), "{target}");
        }
        for target in ["/a/", "/a/.", "/a/b/.."] {
            assert_eq!(path(target), Ok(Target::Path(b"a/".to_vec())), "{target}");
        }
        assert_eq!(path("*"), Ok(Target::Server));
    }

    #[test]
    fn nothing_lies_above_the_root() {
        for target in [
            "/..",
            "/../a",
            "/a/../../b",
            "/%2e%2e/a",
            "/a/..%2f..%2fb",
            "/%00",
            "/a%",
            "/a%4",
            "/a%zz",
            "a",
            "http://",
            "https://h/",
            "/a#b",
            "ftp://h/a",
            "http:///a",
            "http://h h/",
        ] {
            assert!(path(target).is_err(), "{target}");
        }
    }

    proptest! {
        /// Whatever is asked for, what comes out has no empty, `.` or `..` segment, and asking for it again gives the same.
        #[test]
        fn normal_paths_are_normal(target in "[/.%a-c0-9?]{0,40}") {
            if let Ok(Target::Path(path)) = read(target.as_bytes()) {
                let whole = path.strip_suffix(b"/").unwrap_or(&path);
                let well = whole.is_empty() || whole.split(|&byte| byte == b'/').all(|segment| !matches!(segment, b"" | b"." | b".."));
                prop_assert!(well);
                let encoded: Vec<&[u8]> = path.split(|&byte| byte == b'%').collect();
                prop_assert_eq!(normalise(&encoded.join(b"%25".as_slice())), Ok(path));
            }
        }
    }
}
