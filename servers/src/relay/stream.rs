//! One TCP client.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use holdfast_io::clock::Clock;
use holdfast_io::net::{Net, Stream};
use holdfast_io::spawn::Spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::Shared;
use super::outbox::Outbox;
use crate::turn::{FRAME_LEN_MAX, Input, TcpId};

/// Room asked for before each read.
const READ_LEN: usize = 16 << 10;
/// How long a closing connection may take to write its last bytes.
const LAST_WRITE_MAX: Duration = Duration::from_secs(5);

/// Serve a connection until it ends.
pub(super) async fn serve<N: Net, C: Clock, S: Spawn>(
    shared: Rc<Shared<N, C, S>>,
    client: TcpId,
    stream: N::Stream,
) {
    let outbox = shared.outboxes.borrow().get(&client).cloned();
    let Some(outbox) = outbox else {
        return;
    };
    // Without it relayed datagrams are only slower.
    let _ = stream.set_nodelay(true);
    let (reading, writing) = tokio::io::split(stream);
    tokio::select! {
        () = read(&shared, client, reading, &outbox) => {}
        () = write(writing, &outbox) => {}
        () = overdue(&shared.clock, &outbox) => {}
    }
    shared.outboxes.borrow_mut().remove(&client);
    shared.input(Input::TcpClosed { client });
}

/// Ready when the connection should long have been closed.
async fn overdue(clock: &impl Clock, outbox: &Outbox) {
    outbox.closed().await;
    clock.sleep(LAST_WRITE_MAX).await;
}

/// Read until the client ends the connection. Once we have ended it, what it sends is left
/// alone while the last answers are written.
async fn read<N: Net, C: Clock, S: Spawn>(
    shared: &Rc<Shared<N, C, S>>,
    client: TcpId,
    mut reading: ReadHalf<N::Stream>,
    outbox: &Outbox,
) {
    let mut received = BytesMut::new();
    while !outbox.is_closed() {
        // Whole messages are taken out at once, so less than one is left here.
        debug_assert!(received.len() < FRAME_LEN_MAX, "a frame was not recognised");
        received.reserve(READ_LEN);
        match reading.read_buf(&mut received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => consume(shared, client, &mut received),
        }
    }
    std::future::pending().await
}

fn consume<N: Net, C: Clock, S: Spawn>(
    shared: &Rc<Shared<N, C, S>>,
    client: TcpId,
    received: &mut BytesMut,
) {
    while !received.is_empty() {
        let now = shared.clock.now();
        let mut machine = shared.machine.borrow_mut();
        let step = machine.client_stream(now, client, received);
        drop(machine);
        shared.forward(step.forward);
        shared.carry_out();
        match step.consumed {
            0 => return,
            consumed => received.advance(consumed),
        }
    }
}

async fn write<W: Stream>(mut writing: WriteHalf<W>, outbox: &Outbox) {
    while let Some(mut data) = outbox.next().await {
        if writing.write_all_buf(&mut data).await.is_err() {
            return;
        }
    }
    let _ = writing.shutdown().await;
}
