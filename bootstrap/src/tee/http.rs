//! One POST with a JSON body over a new connection, with limits on everything.
//!
//! The agent's API wants a `Content-Type`, and failures told apart further than an HTTP client
//! usually does, so this speaks to hyper itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read at a time, and the most that hyper buffers of a header.
const BUFFER_LEN: usize = 8 << 10;

/// A request.
pub(super) struct Post<'a> {
    pub host: &'a str,
    pub path: &'a str,
    pub body: Bytes,
    pub answer_len_max: usize,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The connection was closed or broke.
    Broken(String),
    /// What came is no HTTP.
    NotHttp,
    /// More came than `answer_len_max`.
    TooLarge,
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Failure {
        match error.is_parse() {
            true => Failure::NotHttp,
            false => Failure::Broken(chain(&error)),
        }
    }
}

/// The status and the body. The connection is closed when the future ends or is dropped.
pub(super) async fn post<S>(stream: S, post: Post<'_>) -> Result<(u16, Bytes), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let builder = http1::Builder::new().max_buf_size(BUFFER_LEN).clone();
    let (mut sender, connection) = builder.handshake(Adapted(stream)).await?;
    let request = hyper::Request::post(post.path)
        .header(HOST, post.host)
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(post.body))
        .map_err(|error| Failure::Broken(chain(&error)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), post.answer_len_max);
        match body.collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(error) => Failure::from(*error),
                Err(error) => Failure::Broken(chain(error.as_ref())),
            }),
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection is over with the answer already read, or with the reason why not.
        _ = connection => exchange.await,
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A stream as hyper wants it. It copies what it reads once more, which costs nothing here.
struct Adapted<S>(S);

impl<S: AsyncRead + Unpin> Read for Adapted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [0; BUFFER_LEN];
        let len = out.remaining().min(BUFFER_LEN);
        let mut read = ReadBuf::new(&mut buffer[..len]);
        let result = ready!(Pin::new(&mut self.0).poll_read(cx, &mut read));
        out.put_slice(read.filled());
        zeroize::Zeroize::zeroize(&mut buffer);
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> Write for Adapted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
