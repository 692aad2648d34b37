//! What commands are carried out with, and what they leave to the connection. Names and replies are those of memcached's doc/protocol.txt; where that says
//! nothing, those of memcached 1.6.38 itself, with which `tests/against_memcached.rs` compares.

use alloc::vec::Vec;

use crate::{
    classic,
    clock::Clock,
    meta,
    statistics::Traffic,
    store::Store,
    text::{self, Words},
};

/// What a command sees of the service.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub store: &'a Store,
    pub clock: Clock,
    /// Seconds since the start, and since 1970 if the box knows.
    pub uptime: u64,
    pub date: Option<i64>,
    /// Of every thread that serves clients.
    pub traffic: &'a [Traffic],
}

/// How a connection goes on after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Done,
    /// So many bytes after the line belonged to the command.
    Took(usize),
    /// So many bytes after the line are needed, and not all there; nothing has been done.
    More(usize),
    /// So many bytes after the line are to be passed over.
    Swallow(usize),
    /// A retrieval of the keys that stand behind so many bytes of the line.
    Retrieve(Retrieval),
    /// The client is to be let go, without another word.
    Close,
}

/// A get, gets, gat or gats under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retrieval {
    /// Bytes of the line up to the next key.
    pub at: usize,
    pub with_cas: bool,
    /// Second at which what is found is to expire.
    pub touch: Option<u32>,
}

pub const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk";
pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache";
pub const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object";
pub const NO_MEMORY_READING: &[u8] = b"SERVER_ERROR out of memory reading request";

/// Appends a line of an answer.
pub fn say(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

/// Carries out the command on `line` (without its end); `rest` is what has arrived behind it.
pub fn execute(context: &Context, line: &[u8], rest: &[u8], out: &mut Vec<u8>) -> Next {
    let words = Words::of(line);
    match words.all() {
        [name, ..] if name.len() == 2 && name[0] == b'm' => meta::execute(context, name[1], words.all(), rest, out),
        [name, arguments @ ..] if name.len() >= 2 => classic::execute(context, name, arguments, line, rest, out),
        _ => {
            say(out, b"ERROR");
            Next::Done
        }
    }
}

/// Carries out a retrieval, key by key, until all are answered or `out` holds `enough`. True when it is at its end.
pub fn retrieve(context: &Context, retrieval: &mut Retrieval, line: &[u8], out: &mut Vec<u8>, enough: usize) -> bool {
    let start = retrieval.at;
    for (key, end) in text::words(&line[start..]) {
        if out.len() >= enough {
            return false;
        }
        classic::retrieve_one(context, retrieval, key, out);
        retrieval.at = start + end;
    }
    say(out, b"END");
    true
}
