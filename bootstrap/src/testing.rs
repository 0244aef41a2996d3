//! A simulator of dstack's guest agent.
