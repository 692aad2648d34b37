//! The head of a request: its line and its fields, as RFC 9112 §2 to §5 want them, and nothing else. What is malformed is refused and not guessed at, since
//! somebody before us may have guessed otherwise: that is what request smuggling lives on.

use crate::{
    grammar::{class, is_token, is_token_byte, list, number, trim},
    status::Status,
};

/// How much of a head there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request line.
    pub line: usize,
    /// Bytes of the whole head.
    pub head: usize,
    pub fields: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Options,
    /// One that HTTP knows, and this server doesn't offer.
    Refused,
    Unknown,
}

macro_rules! names {
    ($($name:ident $text:literal,)*) => {
        /// The fields that this server goes by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Name {
            $($name,)*
        }

        impl Name {
            pub const ALL: &[Name] = &[$(Name::$name,)*];

            /// In lower case.
            pub const fn text(self) -> &'static [u8] {
                match self {
                    $(Name::$name => $text,)*
                }
            }
        }
    };
}

names! {
    AcceptEncoding b"accept-encoding",
    Connection b"connection",
    ContentLength b"content-length",
    Expect b"expect",
    Host b"host",
    IfMatch b"if-match",
    IfModifiedSince b"if-modified-since",
    IfNoneMatch b"if-none-match",
    IfRange b"if-range",
    IfUnmodifiedSince b"if-unmodified-since",
    Range b"range",
    TransferEncoding b"transfer-encoding",
}

impl Name {
    /// Its bit in [`Head::present`].
    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The bit of a field's name, none if it isn't one of these. Names are compared without regard to case.
    fn bit_of(given: &[u8]) -> u16 {
        Name::ALL.iter().find(|name| given.eq_ignore_ascii_case(name.text())).map_or(0, |name| name.bit())
    }
}

/// A request's head. All of its bytes are known to be well-formed.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: Method,
    pub target: &'a [u8],
    /// Of HTTP/1.
    pub minor: u8,
    /// The request line, for the log.
    pub line: &'a [u8],
    /// Which of the fields are there at all: most are looked for in vain.
    present: u16,
    fields: &'a [u8],
}

/// How the content that follows a head is bounded (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Reads the head at the start of `input`: none if it isn't all there, else it and its length. A status is the reason to refuse it and to close.
pub fn read<'a>(input: &'a [u8], limits: &HeadLimits) -> Result<Option<(Head<'a>, usize)>, Status> {
    let line_end = find_line_end(input, 0);
    if line_end.unwrap_or(input.len()) > limits.line {
        return Err(Status::UriTooLong);
    }
    let Some(line_end) = line_end else {
        // What is no method needs no end of line to be refused.
        let method = input.split(|&byte| byte == b' ').next().unwrap_or(input);
        let wrong = method.iter().any(|&byte| !is_token_byte(byte) && byte != b'\r');
        return if wrong { Err(Status::BadRequest) } else { Ok(None) };
    };
    let line = whole_line(&input[..line_end])?;
    let (method, target, minor) = request_line(line)?;
    let fields_start = line_end + 1;
    let (mut at, mut count, mut present) = (fields_start, 0, 0);
    loop {
        let end = find_line_end(input, at);
        if end.unwrap_or(input.len()) > limits.head || count > limits.fields {
            return Err(Status::FieldsTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        let field = whole_line(&input[at..end])?;
        if field.is_empty() {
            let head = Head { method, target, minor, line, present, fields: &input[fields_start..at] };
            return Ok(Some((head, end + 1)));
        }
        present |= Name::bit_of(field_name(field)?);
        (at, count) = (end + 1, count + 1);
    }
}

fn find_line_end(input: &[u8], from: usize) -> Option<usize> {
    input[from..].iter().position(|&byte| byte == b'\n').map(|at| from + at)
}

/// Without the carriage return at its end (RFC 9112 §2.2; a line feed alone is not taken for a line's end). Whoever reads the line takes no other one.
fn whole_line(line: &[u8]) -> Result<&[u8], Status> {
    line.strip_suffix(b"\r").ok_or(Status::BadRequest)
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3), with single blanks.
fn request_line(line: &[u8]) -> Result<(Method, &[u8], u8), Status> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Status::BadRequest);
    };
    let minor = match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => minor - b'0',
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Status::VersionNotSupported);
        }
        _ => return Err(Status::BadRequest),
    };
    if !is_token(method) || target.is_empty() || target.iter().any(|&byte| !(0x21..=0x7e).contains(&byte)) {
        return Err(Status::BadRequest);
    }
    // Methods are case-sensitive (RFC 9110 §9.1).
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"OPTIONS" => Method::Options,
        b"POST" | b"PUT" | b"DELETE" | b"PATCH" | b"TRACE" | b"CONNECT" => Method::Refused,
        _ => Method::Unknown,
    };
    Ok((method, target, minor))
}

/// The name in `field-name ":" OWS field-value OWS` (RFC 9112 §5): no blank before the colon, no folded line, no control character.
fn field_name(field: &[u8]) -> Result<&[u8], Status> {
    let colon = field.iter().position(|&byte| byte == b':').ok_or(Status::BadRequest)?;
    let (name, value) = (&field[..colon], &field[colon + 1..]);
    let well = is_token(name) && value.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
    if well { Ok(name) } else { Err(Status::BadRequest) }
}

impl<'a> Head<'a> {
    /// The values of all fields of that name, in order.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let fields = if self.present & name.bit() == 0 { &[] } else { self.fields };
        let name = name.text();
        fields.split(|&byte| byte == b'\n').filter_map(move |field| {
            let (given, rest) = field.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            given.eq_ignore_ascii_case(name).then(|| trim(value.strip_suffix(b"\r").unwrap_or(value)))
        })
    }

    /// The elements of all fields of that name together (RFC 9110 §5.3).
    pub fn elements(&self, name: Name) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.values(name).flat_map(list)
    }

    /// The value of a field that may be there once; if it is there more often it counts as none.
    pub fn single(&self, name: Name) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// What bounds the content (RFC 9112 §6.3). Lengths that are malformed, repeated, or stand beside a transfer coding are refused: whoever sent
    /// them meant to be read in two ways.
    pub fn framing(&self) -> Result<Framing, Status> {
        let mut lengths = self.values(Name::ContentLength);
        let length = match (lengths.next(), lengths.next()) {
            (None, _) => None,
            (Some(length), None) => Some(number(length).ok_or(Status::BadRequest)?),
            _ => return Err(Status::BadRequest),
        };
        let mut transfer = self.values(Name::TransferEncoding).peekable();
        if transfer.peek().is_none() {
            return Ok(length.map_or(Framing::None, Framing::Length));
        }
        if length.is_some() || self.minor == 0 {
            return Err(Status::BadRequest);
        }
        let mut codings = transfer.flat_map(list);
        match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            // A coding that we don't know before chunked (§6.1), or one without which the end can't be found (§6.3).
            (Some(_), Some(_)) => Err(Status::NotImplemented),
            (Some(coding), None)
                if [b"gzip".as_slice(), b"deflate", b"compress"]
                    .iter()
                    .any(|known| coding.eq_ignore_ascii_case(known)) =>
            {
                Err(Status::BadRequest)
            }
            _ => Err(Status::NotImplemented),
        }
    }

    /// Exactly one Host in HTTP/1.1, and none that is no host (RFC 9112 §3.2).
    pub fn check_host(&self) -> Result<(), Status> {
        let mut hosts = self.values(Name::Host);
        match (hosts.next(), hosts.next()) {
            (None, _) if self.minor == 0 => Ok(()),
            (Some(host), None) if is_authority(host) => Ok(()),
            _ => Err(Status::BadRequest),
        }
    }

    /// Whether the connection is to be kept (RFC 9112 §9.3).
    pub fn persistent(&self) -> bool {
        let says = |option: &[u8]| self.elements(Name::Connection).any(|given| given.eq_ignore_ascii_case(option));
        !says(b"close") && (self.minor > 0 || says(b"keep-alive"))
    }
}

/// Characters of `uri-host [ ":" port ]` (RFC 3986 §3.2.2); empty is allowed.
pub fn is_authority(host: &[u8]) -> bool {
    const AUTHORITY: [bool; 256] = class(b"-._~!$&'()*+,;=:[]%");
    host.iter().all(|&byte| AUTHORITY[usize::from(byte)])
}
