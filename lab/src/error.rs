//! Everything that can go wrong with a lab, each with its remedy.

use std::{io, process::ExitStatus, time::Duration};

/// Why a lab could not be described, built, used or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller lacks the privilege to make namespaces.
    #[error("network namespaces need root, but this process has uid {uid}: run it as root")]
    NotRoot {
        /// The effective user id found.
        uid: u32,
    },
    /// A program that the lab calls is not installed.
    #[error("`{tool}` is not installed: install the Debian package `{package}`")]
    MissingTool {
        /// The program.
        tool: String,
        /// The Debian package that brings it.
        package: String,
    },
    /// A name, number or link specification is outside what is allowed.
    #[error("{what} {found:?} is not valid: expected {expected}")]
    Invalid {
        /// What was looked at.
        what: &'static str,
        /// What was found.
        found: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A topology is larger than a lab supports.
    #[error("the lab has {found} {what}, but at most {max} are supported")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are supported.
        max: usize,
    },
    /// No namespace of that name, or none of the wanted role.
    #[error("lab {prefix} has no {what} named {name:?}; it has: {known}")]
    Unknown {
        /// The lab.
        prefix: String,
        /// The role that was asked for.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A lab of this prefix runs already.
    #[error("lab {prefix} is already up: take it down first")]
    AlreadyUp {
        /// The lab.
        prefix: String,
    },
    /// No lab of this prefix is up.
    #[error("lab {prefix} is not up")]
    NotUp {
        /// The lab.
        prefix: String,
    },
    /// A namespace that this lab did not make has the name that it needs.
    #[error("namespace {namespace} exists and is not this lab's: remove it or use another prefix")]
    NamespaceTaken {
        /// The namespace.
        namespace: String,
    },
    /// The kernel cannot track connections, which every NAT rests on.
    #[error("this kernel tracks no connections: load its module `nf_conntrack` ({why})")]
    NoConntrack {
        /// What was tried.
        why: String,
    },
    /// A program failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said on standard error.
        stderr: String,
    },
    /// The system refused something.
    #[error("{context}: {source}")]
    Io {
        /// What was attempted.
        context: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The state file of a lab does not parse.
    #[error("state file {path} of the lab is unreadable: {source}")]
    State {
        /// The file.
        path: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A condition did not come true in time.
    #[error("{what}: not within {bound:?}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// What is known about the reason, may be empty.
        detail: String,
    },
    /// A process ended before it was ready.
    #[error("{what} ended before it was ready ({status}): {log}")]
    Ended {
        /// The process.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The tail of what it wrote.
        log: String,
    },
    /// The link of this node or router is not emulated, or its emulator refused.
    #[error("link of {name}: {reason}")]
    Link {
        /// The node or router.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// For `map_err`: wraps an I/O error together with what was attempted.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}
