//! What is asked, and what is right: by workload.

use std::{ops::Range, path::Path};

use interfaces::folder::{self, Coding, File, Representation};

use crate::client::{Question, Wrong};

pub struct Workload {
    pub name: &'static str,
    pub questions: Vec<Question>,
}

impl Workload {
    /// Questions without end, in an order in which none follows its neighbour.
    pub fn sequence(&self) -> impl Iterator<Item = &Question> {
        // A prime that divides no number of questions: so all have their turn.
        const STRIDE: usize = 7_919;
        let count = self.questions.len();
        (0..).map(move |at: usize| &self.questions[at.wrapping_mul(STRIDE) % count])
    }
}

// --- The key-value store ---

/// Keys of small values, and of large ones; the values' bytes.
const SMALL: (usize, usize) = (10_000, 100);
const LARGE: (usize, usize) = (2_000, 4_096);
/// Of the mix, one in so many requests stores: what memcached's own load generators do if not told otherwise.
const STORES: usize = 10;

fn key(size: usize, number: usize) -> String {
    format!("bench:{size}:{number:08}")
}

fn value(size: usize, number: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + ((at * 7 + number * 31 + number / 26) % 26) as u8).collect()
}

fn get(size: usize, number: usize) -> Question {
    let (key, value) = (key(size, number), value(size, number));
    let answer = [format!("VALUE {key} 0 {size}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
    Question::new(format!("get {key}\r\n").into_bytes(), answer)
}

fn set(size: usize, number: usize) -> Question {
    let (key, value) = (key(size, number), value(size, number));
    let request = [format!("set {key} 0 0 {size}\r\n").as_bytes(), &value, b"\r\n"].concat();
    Question::new(request, b"STORED\r\n".to_vec())
}

/// What a store is asked; whatever is got has been set by who sets all of `set-small` and `set-4k` first.
pub fn of_store() -> Vec<Workload> {
    let all = |(count, size): (usize, usize), one: fn(usize, usize) -> Question| {
        (0..count).map(|number| one(size, number)).collect::<Vec<_>>()
    };
    let mix = (0..SMALL.0).map(|number| if number % STORES == 0 { set(SMALL.1, number) } else { get(SMALL.1, number) });
    vec![
        Workload { name: "set-small", questions: all(SMALL, set) },
        Workload { name: "set-4k", questions: all(LARGE, set) },
        Workload { name: "get-small", questions: all(SMALL, get) },
        Workload { name: "get-4k", questions: all(LARGE, get) },
        Workload { name: "mix", questions: mix.collect() },
    ]
}

// --- The web server ---

const MODIFIED: i64 = 1_700_000_000;

/// The served files: name, media type, bytes.
fn files() -> [(&'static str, &'static str, Vec<u8>); 2] {
    [("large.bin", "application/octet-stream", value(64 << 10, 1)), ("small.html", "text/html", value(1 << 10, 2))]
}

/// The site as our server's configuration has it.
pub fn archive() -> Vec<u8> {
    let files = files();
    let representations: Vec<_> =
        (1..).zip(&files).map(|(tag, (.., bytes))| [Representation { coding: Coding::Identity, tag, bytes }]).collect();
    let file = |((path, media_type, _), representations): (&(&'static str, &'static str, Vec<u8>), &[_; 1])| File {
        path: path.as_bytes(),
        media_type,
        modified: MODIFIED,
        representations: Box::from(*representations),
    };
    folder::write(&files.iter().zip(&representations).map(file).collect::<Vec<_>>())
}

/// The site as a folder.
pub fn write_files(folder: &Path) -> std::io::Result<()> {
    files().iter().try_for_each(|(name, _, bytes)| std::fs::write(folder.join(name), bytes))
}

fn request(name: &str, more: &str) -> Vec<u8> {
    format!("GET /{name} HTTP/1.1\r\nHost: 10.0.1.3\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n").into_bytes()
}

/// Where an answer's head ends.
fn head_end(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4)
}

/// Where the value of a head's field is.
fn place(head: &str, name: &str) -> Option<Range<usize>> {
    let mut next = 0;
    head.split_inclusive("\r\n").find_map(|line| {
        let begin = next;
        next += line.len();
        let (given, value) = line.split_once(": ")?;
        let at = begin + given.len() + ": ".len();
        given.eq_ignore_ascii_case(name).then(|| at..at + value.trim_end().len())
    })
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.get(place(head, name)?)
}

/// The first answer to a request, looked at closely; all later ones are to be the same, but for their date and the backend's name.
fn learn(request: Vec<u8>, answer: Vec<u8>, status: &str, content: &[u8]) -> Result<Question, String> {
    let wrong = |what: &str| format!("{what} in {:?}", String::from_utf8_lossy(&answer[..answer.len().min(300)]));
    let end = head_end(&answer).ok_or_else(|| wrong("no end of the head"))?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| wrong("no text"))?;
    if !head.starts_with(&format!("HTTP/1.1 {status} ")) {
        return Err(wrong("another status"));
    }
    let length = content.len().to_string();
    if !content.is_empty() && field(head, "content-length") != Some(&length) || answer[end..] != *content {
        return Err(wrong("another content"));
    }
    // When it was said, and by which of several backends.
    let free = ["date", "x-backend"].into_iter().filter_map(|name| place(head, name)).collect();
    Ok(Question { request, free, answer })
}

/// How something is asked for the first time: gives what has come when the other says that it is all.
pub type First<'a> = dyn FnMut(&[u8], &dyn Fn(&[u8]) -> bool) -> Result<Vec<u8>, Wrong> + 'a;

/// What a web server is asked; its own first answers say what is right, if they are.
pub fn of_site(ask: &mut First<'_>) -> Result<Vec<Workload>, String> {
    let [(large, _, large_bytes), (small, _, small_bytes)] = files();
    let mut first = |request: &[u8], content: usize| {
        let complete = |got: &[u8]| head_end(got).is_some_and(|end| got.len() >= end + content);
        ask(request, &complete).map_err(|wrong| wrong.to_string())
    };
    let answer = first(&request(small, ""), small_bytes.len())?;
    let head = String::from_utf8_lossy(&answer[..head_end(&answer).unwrap_or(0)]).into_owned();
    let tag = field(&head, "etag").ok_or_else(|| format!("no ETag in {head:?}"))?;
    let small_question = learn(request(small, ""), answer.clone(), "200", &small_bytes)?;
    let answer = first(&request(large, ""), large_bytes.len())?;
    let large_question = learn(request(large, ""), answer, "200", &large_bytes)?;
    let conditional = request(small, &format!("If-None-Match: {tag}\r\n"));
    let answer = first(&conditional, 0)?;
    let conditional = learn(conditional, answer, "304", &[])?;
    Ok(vec![
        Workload { name: "small", questions: vec![small_question] },
        Workload { name: "64k", questions: vec![large_question] },
        Workload { name: "not-modified", questions: vec![conditional] },
    ])
}

// --- The load balancer ---

/// What the backends are asked; the first answer says what is right, if it has this content.
pub fn of_backends(ask: &mut First<'_>, content: &[u8]) -> Result<Question, String> {
    let request = request("small", "");
    let complete = |got: &[u8]| head_end(got).is_some_and(|end| got.len() >= end + content.len());
    let answer = ask(&request, &complete).map_err(|wrong| wrong.to_string())?;
    learn(request, answer, "200", content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key has its turn, the mix is what it says, and what is got is what has been set.
    #[test]
    fn all_is_asked_that_was_stored() {
        let all = of_store();
        for workload in &all {
            let mut asked: Vec<&[u8]> =
                workload.sequence().take(workload.questions.len()).map(|question| &question.request[..]).collect();
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), workload.questions.len(), "{}", workload.name);
        }
        let stores = all[4].questions.iter().filter(|question| question.request.starts_with(b"set ")).count();
        assert_eq!(stores * 10, all[4].questions.len());
        let (stored, got) = (&all[0].questions[77], &all[2].questions[77]);
        assert!(got.answer.windows(SMALL.1).any(|bytes| stored.request.ends_with(&[bytes, b"\r\n"].concat())));
    }

    /// An answer that isn't the file's, or says something else of itself, is none to measure by; only the date may change, and which of several backends answers.
    #[test]
    fn a_wrong_first_answer_is_refused() {
        let answer = |length: &str, body: &str| {
            format!("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov\r\nContent-Length: {length}\r\nX-Backend: b2\r\n\r\n{body}")
                .into_bytes()
        };
        let learned = learn(vec![], answer("4", "body"), "200", b"body").unwrap();
        let free: Vec<&[u8]> = learned.free.iter().map(|free| &learned.answer[free.clone()]).collect();
        assert_eq!(free, [&b"Sun, 06 Nov"[..], b"b2"]);
        assert!(learn(vec![], answer("4", "bodY"), "200", b"body").is_err());
        assert!(learn(vec![], answer("5", "body"), "200", b"body").is_err());
        assert!(learn(vec![], answer("4", "body"), "304", b"body").is_err());
    }
}
