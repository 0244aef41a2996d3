//! The key-value store as a value that a driver is given.
//!
//! The semantics are in `holdfast_core::kv`. Every implementation passes the contract suite
//! (`contract/`).

pub mod consul;

use std::future::Future;
use std::pin::Pin;

pub use holdfast_core::kv::{
    Behavior, Condition, Consistency, Determinacy, Entry, Failure, FailureKind, NewSession,
    Request, Response, SessionId, Wait,
};

/// What [`Kv::call`] returns. Local, like every future here.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response, Failure>> + 'a>>;

/// A key-value store with Consul's semantics.
pub trait Kv {
    /// Ask it. Many calls may be on their way at once. Every call ends: in the implementation's own
    /// time limit, or for a read that waits, that and its wait. A future that is dropped may have
    /// happened.
    fn call(&self, request: Request) -> Answer<'_>;
}
