//! What waits to be written to a TCP client.

use std::cell::{Cell, RefCell};

use bytes::BytesMut;
use tokio::sync::Notify;

/// Relayed datagrams are dropped while this many bytes wait: a queue without end would hide
/// the loss that tells the sender to slow down.
const UNSENT_DATAGRAMS_MAX: usize = 256 << 10;
/// A client that lets this many bytes of answers wait does not read at all and is closed.
const UNSENT_ANSWERS_MAX: usize = 512 << 10;

/// A queue of whole messages for one connection.
#[derive(Default)]
pub(super) struct Outbox {
    unsent: RefCell<BytesMut>,
    /// Bytes that are being written.
    writing: Cell<usize>,
    closed: Cell<bool>,
    changed: Notify,
    closing: Notify,
}

impl Outbox {
    /// Queue a relayed datagram, or drop it when too much waits.
    pub(super) fn push_datagram(&self, data: &[u8]) {
        if self.waiting() + data.len() <= UNSENT_DATAGRAMS_MAX {
            self.push(data);
        }
    }

    /// Queue an answer.
    pub(super) fn push_answer(&self, data: &[u8]) {
        if self.waiting() + data.len() <= UNSENT_ANSWERS_MAX {
            self.push(data);
        } else {
            self.close();
        }
    }

    /// Write what is queued, then nothing more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
        self.closing.notify_one();
    }

    /// Ready once it is closed.
    pub(super) async fn closed(&self) {
        while !self.closed.get() {
            self.closing.notified().await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// What to write next; nothing once the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<BytesMut> {
        self.writing.set(0);
        loop {
            let data = self.unsent.borrow_mut().split();
            if !data.is_empty() {
                self.writing.set(data.len());
                return Some(data);
            }
            if self.closed.get() {
                return None;
            }
            self.changed.notified().await;
        }
    }

    fn waiting(&self) -> usize {
        self.unsent.borrow().len() + self.writing.get()
    }

    fn push(&self, data: &[u8]) {
        if !self.closed.get() {
            self.unsent.borrow_mut().extend_from_slice(data);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn next(outbox: &Outbox) -> Poll<Option<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut next = pin!(outbox.next());
        next.as_mut()
            .poll(&mut cx)
            .map(|data| data.map(|d| d.len()))
    }

    #[test]
    fn datagrams_beyond_the_limit_are_dropped_and_answers_still_pass() {
        let outbox = Outbox::default();
        let chunk = vec![0; 1 << 10];
        (0..300).for_each(|_| outbox.push_datagram(&chunk));
        outbox.push_answer(b"answer");
        assert_eq!(next(&outbox), Poll::Ready(Some(UNSENT_DATAGRAMS_MAX + 6)));
        outbox.push_datagram(&chunk);
        assert_eq!(
            next(&outbox),
            Poll::Pending,
            "the bytes being written count"
        );
        outbox.push_datagram(&chunk);
        outbox.close();
        assert_eq!(next(&outbox), Poll::Ready(Some(1 << 10)));
        assert_eq!(next(&outbox), Poll::Ready(None));
    }

    #[test]
    fn a_client_that_never_reads_its_answers_is_closed() {
        let outbox = Outbox::default();
        let chunk = vec![0; 1 << 10];
        (0..=UNSENT_ANSWERS_MAX >> 10).for_each(|_| outbox.push_answer(&chunk));
        assert!(outbox.is_closed());
    }
}
