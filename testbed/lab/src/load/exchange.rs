//! One HTTP/1.1 connection through the VIP, and requests on it whose answers are checked to the last byte.

use super::{End, STALLED, TIMELY, Target};
use crate::backend::upload_path;
use crate::clock::Moment;
use crate::content::{self, Hash};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Why a request isn't completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("connect: {0}")]
    Connect(String),
    #[error("no room for another short connection")]
    Crowded,
    #[error("connection ended: {0}")]
    Ended(String),
    #[error("no progress for 30 s")]
    Stalled,
    #[error("complete only after 15 s")]
    Late,
    #[error("status {0}")]
    Status(u16),
    #[error("wrong length or SHA-256 of the answer")]
    Content,
    #[error("the backend stored other bytes than were sent")]
    Stored,
    #[error("answered by \"{0}\", who doesn't serve this VIP")]
    Stranger(String),
}

impl Fault {
    /// Whether it means that an open connection was lost.
    pub fn breaks(&self) -> bool {
        matches!(self, Fault::Ended(_) | Fault::Stalled)
    }
}

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    length: u64,
    hash: Hash,
}

impl Expected {
    pub fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len() as u64, hash: content::hash(bytes) }
    }
}

type Body = BoxBody<Bytes, Infallible>;

pub struct Connection {
    target: Target,
    sender: SendRequest<Body>,
    answered_by: String,
    end: End,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self, Fault> {
        let connect = |error: std::io::Error| Fault::Connect(error.kind().to_string());
        let stream = timeout(TIMELY, TcpStream::connect(target.address))
            .await
            .map_err(|_| Fault::Connect("no answer".into()))?
            .map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let port = stream.local_addr().map_err(connect)?.port();
        let end = End { target: target.address, port, opened: Moment::now() };
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| Fault::Connect(error.to_string()))?;
        // What goes wrong there also shows at the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { target: target.clone(), sender, answered_by: String::new(), end })
    }

    /// The backend that gave the last good answer.
    pub fn answered_by(&self) -> &str {
        &self.answered_by
    }

    pub fn end(&self) -> End {
        self.end
    }

    pub async fn get(&mut self, path: &str, expected: &Expected) -> Result<(), Fault> {
        let response = self.ask(Method::GET, path, Empty::new().boxed(), None, STALLED).await?;
        let status = response.status();
        let (length, hash) = read(response).await?;
        match status {
            StatusCode::OK if length == expected.length && hash == expected.hash => Ok(()),
            StatusCode::OK => Err(Fault::Content),
            other => Err(Fault::Status(other.as_u16())),
        }
    }

    /// Sends `length` bytes at `rate` bytes a second, and looks at what the backend has stored.
    pub async fn put(&mut self, name: &str, seed: u64, length: u64, rate: u64) -> Result<(), Fault> {
        let patience = STALLED + Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
        let path = format!("/up/{name}");
        let response = self.ask(Method::PUT, &path, paced(seed, length, rate), Some(length), patience).await?;
        let status = response.status();
        read(response).await?;
        if status != StatusCode::CREATED && status != StatusCode::NO_CONTENT {
            return Err(Fault::Status(status.as_u16()));
        }
        let file = upload_path(&self.answered_by, name);
        let stored = tokio::fs::read(&file).await.map(|bytes| content::hash(&bytes));
        // Space on the tmpfs; a file that isn't there is reported just below.
        let _ = tokio::fs::remove_file(&file).await;
        if stored.is_ok_and(|hash| hash == stream_hash(seed, length)) { Ok(()) } else { Err(Fault::Stored) }
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
        length: Option<u64>,
        patience: Duration,
    ) -> Result<Response<Incoming>, Fault> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("the lab's own paths are valid");
        let host = HeaderValue::from_str(&self.target.address.to_string()).expect("an address is a valid header");
        request.headers_mut().insert("host", host);
        if let Some(length) = length {
            request.headers_mut().insert("content-length", length.into());
        }
        let response = timeout(patience, async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
        .map_err(|_| Fault::Stalled)?
        .map_err(|error| ended(&error))?;
        let backend = response.headers().get("x-backend").and_then(|name| name.to_str().ok()).unwrap_or("nobody");
        if !self.target.backends.iter().any(|name| name == backend) {
            return Err(Fault::Stranger(backend.to_owned()));
        }
        self.answered_by = backend.to_owned();
        Ok(response)
    }
}

/// Reads an answer to its end; as long as it makes progress it may take its time.
async fn read(response: Response<Incoming>) -> Result<(u64, Hash), Fault> {
    let mut body = response.into_body();
    let (mut length, mut hash) = (0, Sha256::new());
    while let Some(frame) = timeout(STALLED, body.frame()).await.map_err(|_| Fault::Stalled)? {
        if let Some(data) = frame.map_err(|error| ended(&error))?.data_ref() {
            length += data.len() as u64;
            hash.update(data);
        }
    }
    Ok((length, hash.finalize().into()))
}

/// The innermost cause: "connection reset by peer" says more than "connection error".
fn ended(error: &hyper::Error) -> Fault {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Fault::Ended(match cause.downcast_ref::<std::io::Error>() {
        Some(error) => error.kind().to_string(),
        None => cause.to_string(),
    })
}

/// A body that comes by the clock, in pieces of a sixteenth of a second.
fn paced(seed: u64, length: u64, rate: u64) -> Body {
    let piece = (rate / 16).clamp(1, 256 << 10) as usize;
    let start = Instant::now();
    let pieces = stream::unfold((content::Stream::new(seed, length), 0u64), move |(mut stream, sent)| async move {
        sleep_until(start + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64)).await;
        let bytes = stream.next(piece)?;
        let sent = sent + bytes.len() as u64;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(bytes))), (stream, sent)))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

fn stream_hash(seed: u64, length: u64) -> Hash {
    let (mut stream, mut hash) = (content::Stream::new(seed, length), Sha256::new());
    while let Some(piece) = stream.next(64 << 10) {
        hash.update(piece);
    }
    hash.finalize().into()
}
