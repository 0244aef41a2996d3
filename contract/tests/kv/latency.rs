//! How long each operation takes, one after the other.
