//! The TURN server in virtual time: against another implementation's client, against
//! hand-made requests, and against bytes that mean nothing.

mod foreign_client;
mod hostile;
mod requests;
mod world;
