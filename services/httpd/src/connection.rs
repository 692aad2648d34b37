//! A client's connection: bytes in, bytes out. It does no input or output itself, and its memory is bounded: it says how much more it takes, stops when
//! enough is waiting to be sent, and copies a file only as fast as it is taken.

use alloc::{format, string::String, vec::Vec};

use interfaces::folder::{Coding, File, Files, Representation};
use runtime::text::{Decimal, push_number};

use crate::{
    body::Body,
    date,
    head::{self, Framing, Head, HeadLimits, Method, Name},
    negotiate::{self, Range, Ranges, Verdict},
    status::Status,
    target::{self, INDEX, Target},
};

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head: HeadLimits,
    /// Bytes of a request's content.
    pub body: u64,
    /// Requests of one connection.
    pub requests: u32,
}

/// What a connection is served with.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    pub content: &'a Files<'a>,
    pub limits: &'a Limits,
    /// Seconds since 1970, if the box knows them.
    pub date: Option<i64>,
    /// Whether the log wants requests' lines.
    pub lines: bool,
}

/// What a connection needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Input,
    /// That some of what is waiting is sent.
    Output,
    /// To be closed once all is sent.
    Close,
}

/// A line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The request's line, if it is wanted, cut; what isn't printable is `?`.
    pub line: String,
    pub status: Status,
    /// Bytes of content that the answer has.
    pub length: u64,
}

/// Bytes of an answer's own fields, mostly.
const ROOM: usize = 256;
/// Bytes of a request's line that the log shows.
const LOGGED_LINE: usize = 200;
/// Methods on offer.
const ALLOW: &[u8] = b"GET, HEAD, OPTIONS";
/// Between the parts of a multipart answer: no file of ours is asked whether it has this line, since a part's length is told in its fields.
const BOUNDARY: &str = "redleaf-3d6b6a416f9b5";

#[derive(Debug)]
enum State {
    /// Between requests, or amid a head.
    Head,
    /// The request is answered when its content has been passed over.
    Body(Body, Answer),
    /// Parts of an answer's content that are still to be sent: a file's number, one of its representations, what.
    Sending(Parts),
    Closed,
}

#[derive(Debug)]
struct Parts {
    file: usize,
    representation: usize,
    /// In reverse: text before a range of bytes, and the range.
    parts: Vec<(String, Range)>,
}

/// What is said to a request, worked out from its head.
#[derive(Debug)]
struct Answer {
    status: Status,
    /// Whole lines.
    fields: Vec<u8>,
    content: Content,
    /// Whether the content follows: not to a HEAD.
    with_content: bool,
    /// Kept open afterwards.
    keep: bool,
    line: String,
}

#[derive(Debug)]
enum Content {
    /// Neither content, nor a length of it (RFC 9110 §8.6).
    None,
    /// The status in words, for people.
    Words,
    Parts(Parts),
}

#[derive(Debug)]
pub struct Connection {
    input: Vec<u8>,
    /// What before this has been dealt with.
    at: usize,
    state: State,
    keep: bool,
    requests: u32,
    log: Vec<Access>,
}

impl Default for Connection {
    fn default() -> Self {
        Connection { input: Vec::new(), at: 0, state: State::Head, keep: true, requests: 0, log: Vec::new() }
    }
}

impl Connection {
    /// How many more bytes it takes now.
    pub fn room(&self, limits: &Limits) -> usize {
        match self.state {
            State::Closed => 0,
            _ => (limits.head.head + 2).saturating_sub(self.input.len() - self.at),
        }
    }

    /// Takes what has come from the client: no more than there is [`room`](Connection::room) for.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Whether a request has begun and isn't all there: what a slow client is measured by.
    pub fn amid_request(&self) -> bool {
        match self.state {
            State::Head => self.at < self.input.len(),
            State::Body(..) => true,
            State::Sending(_) | State::Closed => false,
        }
    }

    /// What has been answered since this was asked last.
    pub fn take_log(&mut self) -> impl Iterator<Item = Access> {
        self.log.drain(..)
    }

    /// The client took too long over a request: says so (RFC 9110 §15.5.9), and wants to be closed. Between requests it just closes.
    pub fn time_out(&mut self, service: &Service, out: &mut Vec<u8>) {
        if self.amid_request() {
            self.refuse(service, Status::RequestTimeout, out);
        }
        self.state = State::Closed;
    }

    /// Answers what has arrived, and appends to `out` until that holds `enough`.
    pub fn work(&mut self, service: &Service, out: &mut Vec<u8>, enough: usize) -> Wants {
        loop {
            if out.len() >= enough {
                return Wants::Output;
            }
            match &mut self.state {
                State::Closed => return Wants::Close,
                State::Sending(parts) => {
                    if send(service.content, parts, out, enough) {
                        self.next_request();
                    }
                }
                State::Body(body, _) => match body.skip(&self.input[self.at..]) {
                    Err(status) => self.refuse(service, status, out),
                    Ok(passed) => {
                        self.at += passed;
                        let State::Body(body, answer) = core::mem::replace(&mut self.state, State::Closed) else {
                            continue;
                        };
                        if body.is_done() {
                            self.say(service, answer, out);
                        } else {
                            self.state = State::Body(body, answer);
                            return Wants::Input;
                        }
                    }
                },
                State::Head => {
                    // Empty lines before a request are passed over (RFC 9112 §2.2).
                    while self.input[self.at..].starts_with(b"\r\n") {
                        self.at += 2;
                    }
                    if self.at == self.input.len() {
                        return Wants::Input;
                    }
                    match head::read(&self.input[self.at..], &service.limits.head) {
                        Ok(None) => return Wants::Input,
                        Err(status) => self.refuse(service, status, out),
                        Ok(Some((head, len))) => match begin(service, &head, self.requests + 1, out) {
                            Err(status) => self.refuse(service, status, out),
                            Ok((body, answer)) => {
                                self.at += len;
                                self.requests += 1;
                                self.state = State::Body(body, answer);
                            }
                        },
                    }
                }
            }
        }
    }

    fn next_request(&mut self) {
        self.state = if self.keep { State::Head } else { State::Closed };
    }

    /// Answers with an error after which nothing is certain: where the next request would begin least of all. So it is the last answer.
    fn refuse(&mut self, service: &Service, status: Status, out: &mut Vec<u8>) {
        let line = self.input[self.at..].split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut answer = Answer::error(status);
        (answer.keep, answer.line) = (false, shown(line, service.lines));
        self.say(service, answer, out);
        self.state = State::Closed;
    }

    fn say(&mut self, service: &Service, answer: Answer, out: &mut Vec<u8>) {
        let Answer { status, fields, content, with_content, keep, line } = answer;
        let code = Decimal::of(status.code().into());
        for part in [b"HTTP/1.1 ", &*code, b" ", status.reason().as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
        if let Some(date) = service.date {
            push_field(out, "Date", &[&date::write(date)]);
        }
        push_field(out, "Server", &[b"redleaf"]);
        out.extend_from_slice(&fields);
        let length = content.length(status);
        if !matches!(content, Content::None) {
            push_field(out, "Content-Length", &[&Decimal::of(length)]);
        }
        if !keep {
            push_field(out, "Connection", &[b"close"]);
        }
        out.extend_from_slice(b"\r\n");
        self.keep = keep;
        self.log.push(Access { line, status, length: if with_content { length } else { 0 } });
        match content {
            Content::Parts(parts) if with_content => self.state = State::Sending(parts),
            Content::Words if with_content => {
                push_words(out, status);
                self.next_request();
            }
            _ => self.next_request(),
        }
    }
}

/// Appends a field's line.
fn push_field(out: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// Appends a status in words.
fn push_words(out: &mut Vec<u8>, status: Status) {
    push_number(out, status.code().into());
    out.push(b' ');
    out.extend_from_slice(status.reason().as_bytes());
    out.push(b'\n');
}

/// A line as the log shows it, if it does.
fn shown(line: &[u8], wanted: bool) -> String {
    if !wanted {
        return String::new();
    }
    let printable = |&byte: &u8| if (0x20..0x7f).contains(&byte) && byte != b'"' { char::from(byte) } else { '?' };
    line.strip_suffix(b"\r").unwrap_or(line).iter().take(LOGGED_LINE).map(printable).collect()
}

impl Content {
    /// In bytes.
    fn length(&self, status: Status) -> u64 {
        match self {
            Content::None => 0,
            Content::Words => 5 + status.reason().len() as u64,
            Content::Parts(parts) => parts.parts.iter().map(|(text, range)| (text.len() + range.len()) as u64).sum(),
        }
    }
}

impl Answer {
    fn new(status: Status, fields: Vec<u8>, content: Content) -> Answer {
        Answer { status, fields, content, with_content: true, keep: true, line: String::new() }
    }

    fn error(status: Status) -> Answer {
        let mut answer = Answer::new(status, Vec::new(), Content::Words);
        answer.add("Content-Type", &[b"text/plain; charset=utf-8"]);
        if matches!(status, Status::MethodNotAllowed | Status::NotImplemented) {
            answer.add("Allow", &[ALLOW]);
        }
        answer
    }

    /// Adds a field.
    fn add(&mut self, name: &str, value: &[&[u8]]) {
        push_field(&mut self.fields, name, value);
    }
}

/// Works out what is to be said to a request. An error is one after which the connection can't go on.
fn begin(service: &Service, head: &Head, number: u32, out: &mut Vec<u8>) -> Result<(Body, Answer), Status> {
    let framing = head.framing()?;
    head.check_host()?;
    let continues = expects_continue(head)?;
    if continues && framing == Framing::None {
        // Content is announced that nobody could find the end of.
        return Err(Status::LengthRequired);
    }
    let body = Body::new(framing, service.limits.body)?;
    let mut answer = match head.method {
        Method::Get | Method::Head | Method::Options => match target::read(head.target) {
            Ok(target) => answer(service, head, target),
            Err(Status::NotFound) => Answer::error(Status::NotFound),
            Err(status) => return Err(status),
        },
        Method::Refused => Answer::error(Status::MethodNotAllowed),
        Method::Unknown => Answer::error(Status::NotImplemented),
    };
    answer.line = shown(head.line, service.lines);
    answer.with_content &= head.method != Method::Head;
    answer.keep = head.persistent() && number < service.limits.requests;
    if head.minor == 0 && answer.keep {
        answer.add("Connection", &[b"keep-alive"]);
    }
    if continues && answer.status.code() < 400 {
        out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    } else if continues {
        // The client may send the content or not (RFC 9110 §10.1.1): so what comes next could be either.
        answer.keep = false;
        return Ok((Body::new(Framing::None, 0)?, answer));
    }
    Ok((body, answer))
}

/// Whether the client waits for leave to send its content (RFC 9110 §10.1.1); HTTP/1.0 knows nothing of it.
fn expects_continue(head: &Head) -> Result<bool, Status> {
    let mut expects = head.elements(Name::Expect).filter(|_| head.minor > 0);
    match (expects.next(), expects.next()) {
        (None, _) => Ok(false),
        (Some(given), None) if given.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => Err(Status::ExpectationFailed),
    }
}

fn answer(service: &Service, head: &Head, target: Target) -> Answer {
    if head.method == Method::Options {
        let mut answer = Answer::new(Status::NoContent, Vec::new(), Content::None);
        answer.add("Allow", &[ALLOW]);
        return answer;
    }
    let Target::Path(mut path) = target else {
        // `*` is for OPTIONS alone (RFC 9112 §3.2.4).
        return Answer::error(Status::BadRequest);
    };
    let folder = path.is_empty() || path.ends_with(b"/");
    if folder {
        path.extend_from_slice(INDEX);
    }
    let content = service.content;
    match content.files().binary_search_by(|file| file.path.cmp(&path)) {
        Ok(at) => file(service, head, at, &content.files()[at]),
        Err(_) => {
            path.push(b'/');
            if !folder && content.has_folder(&path) { moved(&path) } else { Answer::error(Status::NotFound) }
        }
    }
}

/// A folder that was asked for without its slash, so that links in its index lead astray.
fn moved(path: &[u8]) -> Answer {
    let mut location = Vec::from(*b"/");
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            location.push(byte);
        } else {
            location.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    let mut answer = Answer::error(Status::MovedPermanently);
    answer.add("Location", &[&location]);
    answer
}

fn file(service: &Service, head: &Head, at: usize, file: &File) -> Answer {
    let Some(representation) = negotiate::choose(head, file) else {
        let mut answer = Answer::error(Status::NotAcceptable);
        answer.add("Vary", &[b"Accept-Encoding"]);
        return answer;
    };
    let place = file.representations.iter().position(|other| other.coding == representation.coding).unwrap_or(0);
    let verdict = negotiate::judge(head, file, representation, service.date);
    if verdict == Verdict::Failed {
        return Answer::error(Status::PreconditionFailed);
    }
    let mut answer = Answer::new(Status::NotModified, Vec::with_capacity(ROOM), Content::None);
    answer.add("ETag", &[&negotiate::tag(representation)]);
    if file.representations.len() > 1 {
        answer.add("Vary", &[b"Accept-Encoding"]);
    }
    if verdict == Verdict::NotModified {
        return answer;
    }
    answer.add("Last-Modified", &[&date::write(file.modified)]);
    answer.add("Accept-Ranges", &[b"bytes"]);
    if representation.coding != Coding::Identity {
        answer.add("Content-Encoding", &[representation.coding.name().as_bytes()]);
    }
    let total = representation.bytes.len();
    let media_type = file.media_type.as_bytes();
    let mut parts = match negotiate::ranges(head, file, representation, service.date) {
        Ranges::Unsatisfiable => {
            let mut answer = Answer::error(Status::RangeNotSatisfiable);
            answer.add("Content-Range", &[b"bytes */", &Decimal::of(total as u64)]);
            return answer;
        }
        Ranges::Whole => {
            answer.status = Status::Ok;
            answer.add("Content-Type", &[media_type]);
            Vec::from([(String::new(), Range { start: 0, end: total })])
        }
        Ranges::Parts(ranges) => {
            answer.status = Status::PartialContent;
            if let [range] = ranges[..] {
                answer.add("Content-Type", &[media_type]);
                answer.add("Content-Range", &[content_range(range, total).as_bytes()]);
                Vec::from([(String::new(), range)])
            } else {
                answer.add("Content-Type", &[b"multipart/byteranges; boundary=", BOUNDARY.as_bytes()]);
                multipart(file, representation, &ranges)
            }
        }
    };
    parts.reverse();
    answer.content = Content::Parts(Parts { file: at, representation: place, parts });
    answer
}

fn content_range(range: Range, total: usize) -> String {
    format!("bytes {}-{}/{total}", range.start, range.end - 1)
}

/// The parts of `multipart/byteranges` (RFC 9110 §14.6).
fn multipart(file: &File, representation: &Representation, ranges: &[Range]) -> Vec<(String, Range)> {
    let total = representation.bytes.len();
    let part = |(at, &range): (usize, &Range)| {
        let before = if at == 0 { "" } else { "\r\n" };
        let (media_type, content_range) = (file.media_type, content_range(range, total));
        let fields =
            format!("{before}--{BOUNDARY}\r\nContent-Type: {media_type}\r\nContent-Range: {content_range}\r\n\r\n");
        (fields, range)
    };
    let end = (format!("\r\n--{BOUNDARY}--\r\n"), Range { start: 0, end: 0 });
    ranges.iter().enumerate().map(part).chain([end]).collect()
}

/// Appends content until all is sent, or `out` holds `enough`. True at the end.
fn send(content: &Files, parts: &mut Parts, out: &mut Vec<u8>, enough: usize) -> bool {
    while let Some((text, range)) = parts.parts.last_mut() {
        out.extend_from_slice(text.as_bytes());
        text.clear();
        let file = content.files().get(parts.file);
        let representation = file.and_then(|file| file.representations.get(parts.representation));
        let rest = representation
            .and_then(|representation| representation.bytes.get(range.start..range.end))
            .unwrap_or_default();
        let taken = rest.len().min(enough.saturating_sub(out.len()));
        out.extend_from_slice(&rest[..taken]);
        range.start += taken;
        if taken < rest.len() {
            return false;
        }
        parts.parts.pop();
    }
    true
}

impl core::fmt::Display for Access {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\" {} {}", self.line, self.status.code(), self.length)
    }
}
