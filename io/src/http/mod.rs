//! HTTP/1.1 over any [`Stream`](crate::net::Stream): a client that keeps its connection, and
//! a small server with limits.

mod adapt;
mod client;
mod connection;
mod server;
mod tls;

pub use client::{Client, ClientError, Endpoint, EndpointError};
pub use connection::{Connection, ExchangeError, Incoming, Outgoing};
pub use hyper::header::{self, HeaderName, HeaderValue};
pub use hyper::{HeaderMap, Method, StatusCode};
pub use server::{Request, Response, ServerLimits, Stop, serve};
pub use tls::{Tls, TlsError};
