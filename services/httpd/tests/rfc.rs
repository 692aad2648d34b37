//! The requirements of RFC 9110 and RFC 9112 on a server of static content, each beside its test: what is sent, and what must and must not be in the answer.

mod site;

use site::{content, send};

/// `\n` stands for CRLF in `sent`. A line of `answer` that begins with `!` must not be there; `closed` is whether the connection must be closed after it.
struct Requirement {
    section: &'static str,
    claim: &'static str,
    sent: &'static str,
    answer: &'static str,
    closed: bool,
}

macro_rules! requirements {
    ($($section:literal $claim:literal $sent:literal => $answer:literal $(, $closed:ident)?;)*) => {
        &[$(Requirement { section: $section, claim: $claim, sent: $sent, answer: $answer, closed: requirements!(@ $($closed)?) },)*]
    };
    (@ closed) => { true };
    (@) => { false };
}

#[rustfmt::skip]
const REQUIREMENTS: &[Requirement] = requirements! {
    // Methods.
    "9110 §9.3.1" "GET transfers the representation" "GET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK\nContent-Length: 25\nContent-Type: text/plain\nHello, world! 0123456789";
    "9110 §9.3.2" "HEAD is GET without content, with its length" "HEAD /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK\nContent-Length: 25\nContent-Type: text/plain\n!Hello";
    "9110 §9.3.2" "HEAD of what isn't there has no content either" "HEAD /none HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 404 Not Found\nContent-Length: 14";
    "9110 §9.3.7" "OPTIONS names the methods" "OPTIONS /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 204 No Content\nAllow: GET, HEAD, OPTIONS\n!Content-Length";
    "9110 §9.3.7" "OPTIONS * asks about the server" "OPTIONS * HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 204 No Content\nAllow: GET, HEAD, OPTIONS";
    "9110 §15.5.6" "a method that is known and not offered is 405 with Allow" "DELETE /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 405 Method Not Allowed\nAllow: GET, HEAD, OPTIONS";
    "9110 §15.6.2" "a method that isn't known is 501" "BREW /pot HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 501 Not Implemented";
    "9110 §9.1" "methods are case-sensitive" "get / HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 501 Not Implemented";
    "9112 §3.2.4" "* is for OPTIONS alone" "GET * HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 400 Bad Request";

    // Request line and version.
    "9112 §3" "a malformed request line is 400" "GET  / HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 400 Bad Request\nConnection: close", closed;
    "9112 §3" "so is one of two words" "GET /\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3" "and one of four" "GET / HTTP/1.1 x\nHost: h\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3" "a request line that is too long is 414" "GET /AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 414 URI Too Long", closed;
    "9112 §2.3" "another major version is 505" "GET / HTTP/2.0\nHost: h\n\n" => "HTTP/1.1 505 HTTP Version Not Supported", closed;
    "9112 §2.3" "a higher minor version is served as 1.1" "GET /hello.txt HTTP/1.9\nHost: h\n\n" => "HTTP/1.1 200 OK";
    "9112 §2.3" "the version's name is case-sensitive" "GET / http/1.1\nHost: h\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §2.2" "empty lines before a request are passed over" "\n\nGET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK";
    "9112 §2.2" "a carriage return alone is no line's end" "GET / HTTP/1.1\nHost: h\rX: y\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3.2.2" "the absolute form is served" "GET http://h/hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK";

    // Host.
    "9112 §3.2" "HTTP/1.1 without Host is 400" "GET / HTTP/1.1\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3.2" "two Hosts are 400" "GET / HTTP/1.1\nHost: a\nHost: a\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3.2" "a Host that is none is 400" "GET / HTTP/1.1\nHost: a/b\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §3.2" "HTTP/1.0 needs none" "GET /hello.txt HTTP/1.0\n\n" => "HTTP/1.1 200 OK", closed;

    // Fields.
    "9112 §5.1" "a blank before the colon is 400" "GET / HTTP/1.1\nHost : h\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §5.2" "a folded line is 400" "GET / HTTP/1.1\nHost: h\nX: a\n b\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §2.2" "a blank before the first field is 400" "GET / HTTP/1.1\n Host: h\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9110 §5.5" "a NUL in a field is 400" "GET / HTTP/1.1\nHost: h\nX: a\0b\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9110 §5.1" "a field without a name is 400" "GET / HTTP/1.1\nHost: h\n: x\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9110 §5.1" "names are compared without case, values trimmed" "GET /hello.txt HTTP/1.1\nhOsT:\t h \t\nconnECTION: CLOSE\n\n" => "HTTP/1.1 200 OK\nConnection: close", closed;
    "6585 §5" "too many fields are 431" "GET / HTTP/1.1\nHost: h\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\na:\n\n" => "HTTP/1.1 431 Request Header Fields Too Large", closed;

    // Framing: nothing that two readers could read in two ways.
    "9112 §6.3" "a length that isn't a number is refused" "GET / HTTP/1.1\nHost: h\nContent-Length: x\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.3" "nor has it a sign" "GET / HTTP/1.1\nHost: h\nContent-Length: +5\n\nhello" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.3" "nor does it overflow" "GET / HTTP/1.1\nHost: h\nContent-Length: 18446744073709551616\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.3" "two lengths are refused" "GET / HTTP/1.1\nHost: h\nContent-Length: 5\nContent-Length: 6\n\nhello" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.3" "a list of lengths too" "GET / HTTP/1.1\nHost: h\nContent-Length: 5, 5\n\nhello" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.1" "a length beside a transfer coding is refused, and the connection closed" "GET / HTTP/1.1\nHost: h\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\nGET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 400 Bad Request\nConnection: close\n!200 OK", closed;
    "9112 §6.1" "so is a transfer coding in HTTP/1.0" "GET / HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.1" "a transfer coding that isn't known is 501" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: xchunked\n\n" => "HTTP/1.1 501 Not Implemented", closed;
    "9112 §6.1" "also before chunked" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip, chunked\n\n" => "HTTP/1.1 501 Not Implemented", closed;
    "9112 §6.3" "without chunked at the end there is no end" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6.1" "chunked twice is refused" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n" => "HTTP/1.1 501 Not Implemented", closed;
    "9112 §7.1" "chunks, extensions and trailers are passed over, and what follows is the next request" "GET /hello.txt HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n5;x=\"y\"\nhello\n0A\n0123456789\n0\nTrailer: x\n\nGET /none HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK\nHTTP/1.1 404 Not Found";
    "9112 §7.1" "a chunk's size is hexadecimal and nothing else" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n0x5\nhello\n0\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §7.1" "a chunk ends where its size says" "GET / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n4\nhello\n0\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9112 §6" "content of a known length is passed over" "GET /hello.txt HTTP/1.1\nHost: h\nContent-Length: 5\n\nhelloGET /none HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK\nHTTP/1.1 404 Not Found";
    "9110 §15.5.14" "content that is too long is 413" "PUT / HTTP/1.1\nHost: h\nContent-Length: 2001\n\n" => "HTTP/1.1 413 Content Too Large", closed;
    "9110 §15.5.14" "so are chunks that add up to too much" "PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n7ff\n" => "HTTP/1.1 413 Content Too Large", closed;
    "9110 §15.5.12" "content that is announced without a length is 411" "PUT / HTTP/1.1\nHost: h\nExpect: 100-continue\n\n" => "HTTP/1.1 411 Length Required", closed;
    "9110 §10.1.1" "a client that waits is told to go on" "GET /hello.txt HTTP/1.1\nHost: h\nContent-Length: 2\nExpect: 100-continue\n\nhi" => "HTTP/1.1 100 Continue\nHTTP/1.1 200 OK";
    "9110 §10.1.1" "or is given the final answer" "PUT /hello.txt HTTP/1.1\nHost: h\nContent-Length: 2\nExpect: 100-continue\n\n" => "HTTP/1.1 405 Method Not Allowed\n!100 Continue", closed;
    "9110 §10.1.1" "another expectation is 417" "GET / HTTP/1.1\nHost: h\nExpect: x\n\n" => "HTTP/1.1 417 Expectation Failed", closed;

    // The connection.
    "9112 §9.3" "a connection is kept by default" "GET /none HTTP/1.1\nHost: h\n\nGET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 404 Not Found\nHTTP/1.1 200 OK\n!Connection";
    "9112 §9.6" "or closed if the client says so, and nothing after that is answered" "GET /none HTTP/1.1\nHost: h\nConnection: x, close\n\nGET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 404 Not Found\nConnection: close\n!200 OK", closed;
    "9112 §9.3" "HTTP/1.0 is closed by default" "GET /hello.txt HTTP/1.0\nHost: h\n\n" => "HTTP/1.1 200 OK\nConnection: close", closed;
    "9112 §9.3" "or kept if it says so" "GET /hello.txt HTTP/1.0\nConnection: keep-alive\n\n" => "HTTP/1.1 200 OK\nConnection: keep-alive";
    "9112 §9.3.2" "pipelined requests are answered in their order" "GET /none HTTP/1.1\nHost: h\n\nHEAD / HTTP/1.1\nHost: h\n\nGET /hello.txt HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 404 Not Found\nContent-Length: 10\nHello, world! 0123456789";

    // Fields of answers.
    "9110 §6.6.1" "an answer has a date" "GET /none HTTP/1.1\nHost: h\n\n" => "Date: Tue, 14 Nov 2023 22:13:20 GMT";
    "9110 §8.8" "a file has a tag and a date" "GET /hello.txt HTTP/1.1\nHost: h\n\n" => "ETag: \"000000000000000a\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    "9110 §15.4.2" "a folder without its slash is elsewhere" "GET /a%20b HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 301 Moved Permanently\nLocation: /a%20b/";
    "3986 §5.2.4" "a folder has its index" "GET /x/../a%20b/ HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 200 OK\nfolder";
    "9110 §17.3" "no path leads out of the folder" "GET /../../etc/passwd HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 400 Bad Request", closed;
    "9110 §17.3" "not by an encoded slash either" "GET /..%2f..%2fetc/passwd HTTP/1.1\nHost: h\n\n" => "HTTP/1.1 404 Not Found";

    // Preconditions.
    "9110 §13.1.2" "the tag that the client has is 304" "GET /hello.txt HTTP/1.1\nHost: h\nIf-None-Match: \"x\", \"000000000000000a\"\n\n" => "HTTP/1.1 304 Not Modified\nETag: \"000000000000000a\"\nDate: Tue\n!Content-Length\n!Hello";
    "9110 §13.1.2" "compared weakly" "GET /hello.txt HTTP/1.1\nHost: h\nIf-None-Match: W/\"000000000000000a\"\n\n" => "HTTP/1.1 304 Not Modified";
    "9110 §13.1.2" "* is any" "HEAD /hello.txt HTTP/1.1\nHost: h\nIf-None-Match: *\n\n" => "HTTP/1.1 304 Not Modified";
    "9110 §13.1.2" "another tag is served" "GET /hello.txt HTTP/1.1\nHost: h\nIf-None-Match: \"x\"\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.3" "what hasn't changed since is 304" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\n\n" => "HTTP/1.1 304 Not Modified";
    "9110 §13.1.3" "what has changed is served" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.3" "a date in an obsolete form counts" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT\n\n" => "HTTP/1.1 304 Not Modified";
    "9110 §13.1.3" "what is no date is ignored" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Modified-Since: yesterday\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.3" "the date is ignored beside a tag" "GET /hello.txt HTTP/1.1\nHost: h\nIf-None-Match: \"x\"\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.1" "If-Match with another tag is 412" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Match: \"x\"\n\n" => "HTTP/1.1 412 Precondition Failed";
    "9110 §13.1.1" "with this one it is served" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Match: \"x\", \"000000000000000a\"\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.1" "compared strongly" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Match: W/\"000000000000000a\"\n\n" => "HTTP/1.1 412 Precondition Failed";
    "9110 §13.1.4" "what has changed since is 412" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\n\n" => "HTTP/1.1 412 Precondition Failed";
    "9110 §13.2.2" "If-Match goes before the date" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Match: *\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.2.2" "and If-None-Match after If-Match" "GET /hello.txt HTTP/1.1\nHost: h\nIf-Match: *\nIf-None-Match: *\n\n" => "HTTP/1.1 304 Not Modified";
    "9110 §13.2.1" "what isn't there stays 404" "GET /none HTTP/1.1\nHost: h\nIf-None-Match: *\n\n" => "HTTP/1.1 404 Not Found";

    // Ranges.
    "9110 §14.2" "first and last byte" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=7-11\n\n" => "HTTP/1.1 206 Partial Content\nContent-Range: bytes 7-11/25\nContent-Length: 5\nworld\n!Hello";
    "9110 §14.1.2" "from a byte on" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=20-\n\n" => "Content-Range: bytes 20-24/25\nContent-Length: 5\n6789";
    "9110 §14.1.2" "the last bytes" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=-5\n\n" => "Content-Range: bytes 20-24/25\n6789";
    "9110 §14.1.2" "more than there are is all of them" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=-99999999999999999999999\n\n" => "Content-Range: bytes 0-24/25";
    "9110 §14.1.2" "an end beyond the end is the end" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=23-99999999999999999999999\n\n" => "Content-Range: bytes 23-24/25\nContent-Length: 2";
    "9110 §15.5.17" "what begins beyond the end is 416" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=25-\n\n" => "HTTP/1.1 416 Range Not Satisfiable\nContent-Range: bytes */25";
    "9110 §15.5.17" "so are the last no bytes" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=-0\n\n" => "HTTP/1.1 416 Range Not Satisfiable";
    "9110 §14.1.1" "a malformed range is ignored" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=9-3\n\n" => "HTTP/1.1 200 OK";
    "9110 §14.1" "another unit is ignored" "GET /hello.txt HTTP/1.1\nHost: h\nRange: lines=1-2\n\n" => "HTTP/1.1 200 OK";
    "9110 §14.6" "several ranges are parts, each with its own" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4, 7-11, 99-\n\n" => "HTTP/1.1 206 Partial Content\nContent-Type: multipart/byteranges; boundary=\nContent-Type: text/plain\nContent-Range: bytes 0-4/25\nContent-Range: bytes 7-11/25\n!Content-Range: bytes 99";
    "9110 §17.15" "overlapping ranges are ignored" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-10,5-15\n\n" => "HTTP/1.1 200 OK";
    "9110 §17.15" "so are many" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,10-10,11-11,12-12,13-13,14-14,15-15,16-16\n\n" => "HTTP/1.1 200 OK";
    "9110 §14.2" "a range is of GET alone" "HEAD /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\n\n" => "HTTP/1.1 200 OK\nContent-Length: 25";
    "9110 §13.1.5" "If-Range with this tag is a range" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\nIf-Range: \"000000000000000a\"\n\n" => "HTTP/1.1 206 Partial Content";
    "9110 §13.1.5" "with another it is the whole" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\nIf-Range: \"x\"\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.5" "with a weak one too" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\nIf-Range: W/\"000000000000000a\"\n\n" => "HTTP/1.1 200 OK";
    "9110 §13.1.5" "with the very date it is a range" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\n\n" => "HTTP/1.1 206 Partial Content";
    "9110 §13.1.5" "with a later one it isn't" "GET /hello.txt HTTP/1.1\nHost: h\nRange: bytes=0-4\nIf-Range: Sun, 06 Nov 1994 08:49:38 GMT\n\n" => "HTTP/1.1 200 OK";
    "9110 §14.3" "a file says that it takes ranges" "GET /hello.txt HTTP/1.1\nHost: h\n\n" => "Accept-Ranges: bytes";

    // Negotiation.
    "9110 §12.5.3" "without Accept-Encoding a file comes as it is" "GET /page.html HTTP/1.1\nHost: h\n\n" => "identity page\nVary: Accept-Encoding\n!Content-Encoding";
    "9110 §12.5.3" "the shortest of what is liked best" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding: gzip, deflate, br\n\n" => "Content-Encoding: br\nETag: \"0000000000000006\"\nVary: Accept-Encoding\nContent-Length: 2";
    "9110 §12.5.3" "weights decide" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding: br;q=0.1, gzip;q=0.2\n\n" => "Content-Encoding: gzip";
    "9110 §12.5.3" "nought is never" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding: gzip;q=0, br; q=0\n\n" => "identity page";
    "9110 §12.5.3" "* is the others" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding: *;q=0.5, br;q=0\n\n" => "Content-Encoding: gzip";
    "9110 §12.5.3" "an empty field is the file as it is" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding:\n\n" => "identity page";
    "9110 §15.5.7" "who refuses all is 406" "GET /hello.txt HTTP/1.1\nHost: h\nAccept-Encoding: identity;q=0\n\n" => "HTTP/1.1 406 Not Acceptable";
    "9110 §8.8.3" "each coding has its own tag" "GET /page.html HTTP/1.1\nHost: h\nAccept-Encoding: br\nIf-None-Match: \"0000000000000004\"\n\n" => "HTTP/1.1 200 OK\nETag: \"0000000000000006\"";
};

/// A line feed alone can't be written in the table.
#[test]
fn a_line_feed_alone_is_no_lines_end() {
    let answers = send(&content(), b"GET / HTTP/1.1\nHost: h\n\n", &[usize::MAX]);
    assert!(answers.text().starts_with("HTTP/1.1 400 ") && answers.closed);
}

/// An answer to HEAD ends with its head, whatever it is (RFC 9110 §9.3.2).
#[test]
fn nothing_follows_the_answer_to_head() {
    for path in ["/hello.txt", "/none", "/a%20b", "/%2f"] {
        let answers = send(&content(), format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), &[usize::MAX]);
        assert!(answers.text().ends_with("\r\n\r\n") && !answers.text().contains("Content-Length: 0"), "{path}");
    }
}

#[test]
fn every_requirement_is_met() {
    let content = content();
    let mut wrong = Vec::new();
    for Requirement { section, claim, sent, answer, closed } in REQUIREMENTS {
        let answers = send(&content, sent.replace('\n', "\r\n").as_bytes(), &[usize::MAX]);
        let text = answers.text();
        let missing = answer.split('\n').find(|line| match line.strip_prefix('!') {
            Some(unwanted) => text.contains(unwanted),
            None => !text.contains(line),
        });
        if missing.is_some() || answers.closed != *closed {
            wrong.push(format!("RFC {section}: {claim}: {missing:?}, closed {}, in\n{text}", answers.closed));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(REQUIREMENTS.len() > 100);
}

/// The parts of a multipart answer are framed as RFC 9110 §14.6 and RFC 2046 want it, and the length is theirs.
#[test]
fn parts_are_framed() {
    let request = b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=0-4,-2\r\n\r\n";
    let text = send(&content(), request, &[usize::MAX]).text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let boundary = head.split_once("boundary=").unwrap().1.split("\r\n").next().unwrap();
    let right = format!(
        "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-4/25\r\n\r\nHello\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: \
         bytes 23-24/25\r\n\r\n9\n\r\n--{boundary}--\r\n"
    );
    assert_eq!(body, right);
    assert!(head.contains(&format!("Content-Length: {}", right.len())));
}
