//! HTTP/1.1 over any [`Stream`](crate::net::Stream): a client that keeps its connection, and
//! a small server with limits.

mod adapt;
mod client;
mod server;

pub use client::{Client, ClientError, Endpoint, EndpointError};
pub use hyper::{Method, StatusCode};
pub use server::{Request, Response, ServerLimits, Stop, serve};
