//! The status codes that this server gives (RFC 9110 §15).

macro_rules! statuses {
    ($($name:ident $code:literal $reason:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Status {
            $($name = $code,)*
        }

        impl Status {
            pub const ALL: &[Status] = &[$(Status::$name,)*];

            pub fn reason(self) -> &'static str {
                match self {
                    $(Status::$name => $reason,)*
                }
            }
        }
    };
}

statuses! {
    Ok 200 "OK",
    NoContent 204 "No Content",
    PartialContent 206 "Partial Content",
    MovedPermanently 301 "Moved Permanently",
    NotModified 304 "Not Modified",
    BadRequest 400 "Bad Request",
    NotFound 404 "Not Found",
    MethodNotAllowed 405 "Method Not Allowed",
    NotAcceptable 406 "Not Acceptable",
    RequestTimeout 408 "Request Timeout",
    LengthRequired 411 "Length Required",
    PreconditionFailed 412 "Precondition Failed",
    ContentTooLarge 413 "Content Too Large",
    UriTooLong 414 "URI Too Long",
    RangeNotSatisfiable 416 "Range Not Satisfiable",
    ExpectationFailed 417 "Expectation Failed",
    FieldsTooLarge 431 "Request Header Fields Too Large",
    NotImplemented 501 "Not Implemented",
    VersionNotSupported 505 "HTTP Version Not Supported",
}

impl Status {
    pub fn code(self) -> u16 {
        self as u16
    }
}
