//! A site, and a client of its server that cuts its bytes as it likes.

use interfaces::folder::{self, Coding, File, Files, Representation};

use httpd::{
    connection::{Connection, Limits, Service, Wants},
    head::HeadLimits,
};

pub const LIMITS: Limits =
    Limits { head: HeadLimits { line: 1024, head: 4096, fields: 40 }, body: 2000, requests: 100 };
/// Sun, 06 Nov 1994 08:49:37 GMT.
pub const MODIFIED: i64 = 784_111_777;
pub const TODAY: i64 = 1_700_000_000;
pub const HELLO: &str = "Hello, world! 0123456789\n";

pub struct Answers {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

impl Answers {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

pub fn content() -> Files<'static> {
    let file = |path: &'static str, media_type, forms: &[(Coding, u64, &'static [u8])]| {
        let form = |&(coding, tag, bytes)| Representation { coding, tag, bytes };
        File {
            path: path.as_bytes(),
            media_type,
            modified: MODIFIED,
            representations: forms.iter().map(form).collect(),
        }
    };
    let archive = folder::write(&[
        file("a b/index.html", "text/html", &[(Coding::Identity, 1, b"folder\n")]),
        file("big.bin", "application/octet-stream", &[(Coding::Identity, 2, &[b'x'; 300_000])]),
        file("hello.txt", "text/plain", &[(Coding::Identity, 10, HELLO.as_bytes())]),
        file("index.html", "text/html", &[(Coding::Identity, 3, b"the index\n")]),
        file(
            "page.html",
            "text/html",
            &[(Coding::Identity, 4, b"identity page\n"), (Coding::Gzip, 5, b"gzip"), (Coding::Brotli, 6, b"br")],
        ),
    ]);
    Files::read(archive.leak()).unwrap()
}

/// Sends `request` in pieces of these lengths, over and over.
pub fn send(content: &Files, request: &[u8], pieces: &[usize]) -> Answers {
    converse(content, &mut Connection::default(), request, pieces)
}

pub fn service<'a>(content: &'a Files<'a>) -> Service<'a> {
    Service { content, limits: &LIMITS, date: Some(TODAY), lines: true }
}

pub fn converse(content: &Files, connection: &mut Connection, request: &[u8], pieces: &[usize]) -> Answers {
    let (mut rest, mut bytes, mut pieces) = (request, Vec::new(), pieces.iter().cycle());
    loop {
        let mut out = Vec::new();
        let wants = connection.work(&service(content), &mut out, 16 * 1024);
        assert!(out.len() < 17 * 1024, "more than enough waits to be sent");
        bytes.extend(out);
        match wants {
            Wants::Close => return Answers { bytes, closed: true },
            Wants::Input if rest.is_empty() => return Answers { bytes, closed: false },
            Wants::Input => {
                let room = connection.room(&LIMITS);
                assert!(room > 0, "it wants input, and has no room for it");
                let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(room).min(rest.len()));
                connection.receive(piece);
                rest = after;
            }
            Wants::Output => {}
        }
    }
}
